"""A checkpoint is refused, in one line, if our attention does not compute what transformers' own does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.networks import NETWORKS, SIZES, network
from torch import nn
from transformers import (
    DeepseekV32Config,
    DeepseekV32ForCausalLM,
    FNetConfig,
    FNetForMaskedLM,
    IBertConfig,
    IBertForMaskedLM,
    InklingForCausalLM,
    InklingTextConfig,
    JambaConfig,
    JambaForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    MiniMaxM3VLForCausalLM,
    MiniMaxM3VLTextConfig,
    NystromformerConfig,
    NystromformerForMaskedLM,
    PreTrainedModel,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from elongate.context.attention.full import Full
from elongate.context.attention.self_extend import SelfExtend
from elongate.context.attention.window import Window
from elongate.context.curriculum.fixed import Fixed
from elongate.context.position.none import Unchanged
from elongate.context.sampling.pose import Pose
from elongate.context.strategy import Strategy
from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.errors import ConfigError
from elongate.models.compatibility import check_attention, check_isolation, check_network, check_strategy
from elongate.models.language_model import LanguageModel
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory

GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}
INKLING = {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 8, "sliding_window_size": 16}
MASKED = {key: value for key, value in SIZES.items() if "heads" not in key}
SPARSE = {"index_n_heads": 2, "index_head_dim": 8}

REFUSED: dict[str, tuple[Callable[[], PreTrainedModel], str]] = {
    "sparse blocks": (
        lambda: MiniMaxM3VLForCausalLM(
            MiniMaxM3VLTextConfig(
                **GROUPED | EXPERTS | SPARSE,
                rotary_dim=4,
                dense_intermediate_size=48,
                shared_intermediate_size=16,
                index_block_size=8,
                index_topk_blocks=2,
                layer_types=["full_attention", "minimax_m3_sparse"],
            )
        ),
        "MiniMaxM3VLAttention needs block_indices",
    ),
    "bias of relative positions": (
        lambda: InklingForCausalLM(
            InklingTextConfig(
                **GROUPED | INKLING,
                logits_mup_width_multiplier=1.0,
                moe_intermediate_size=16,
                n_routed_experts=4,
                num_experts_per_tok=2,
                n_shared_experts=1,
            )
        ),
        "InklingAttention needs position_bias",
    ),
    "no attention": (lambda: FNetForMaskedLM(FNetConfig(**MASKED)), "whose layers have no attention"),
    "quantized table": (lambda: IBertForMaskedLM(IBertConfig(**SIZES)), "whose table of positions is a QuantEmbedding"),
    "segments": (
        lambda: NystromformerForMaskedLM(NystromformerConfig(**SIZES, segment_means_seq_len=32, num_landmarks=8)),
        "reads texts of exactly segment_means_seq_len=32 tokens, because num_landmarks=8",
    ),
    "indexer": (
        lambda: DeepseekV32ForCausalLM(
            DeepseekV32Config(**SIZES | LATENT | SPARSE, num_key_value_heads=4, index_topk=8, first_k_dense_replace=2)
        ),
        "chooses its keys with an indexer",
    ),
}


def opened(built: PreTrainedModel) -> LanguageModel:
    if built.config.model_type not in ("fnet", "ibert", "nystromformer"):  # these have their own attention
        built.set_attn_implementation("elongate")
    return LanguageModel(built.eval(), "opened")


@pytest.mark.parametrize("mechanism", REFUSED)
def test_a_mechanism_that_our_attention_does_not_compute_is_named(mechanism: str) -> None:
    build, reason = REFUSED[mechanism]
    with pytest.raises(ConfigError, match=reason) as refused:
        check_network(opened(build()))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", [kind for kind in NETWORKS if kind != "gemma2"])
def test_a_network_that_computes_the_same_as_in_transformers_is_accepted(kind: str) -> None:
    model = opened(network(kind, dtype=torch.float32))
    check_network(model)
    assert model.network.config._attn_implementation == "elongate"


@pytest.mark.parametrize(("fields", "first"), [({}, 4), ({"sliding_window": 40}, 41), ({"index_block_size": 40}, 44)])
def test_attention_that_differs_from_the_network_s_own_is_refused(fields: dict[str, Any], first: int) -> None:
    """As in networks that set a mechanism up only for the attention functions of transformers that they know."""
    built = network("llama-2", dtype=torch.float32)
    for name, value in fields.items():
        setattr(built.config, name, value)

    def changed(module: nn.Module, _: Any, output: tuple[Any, ...]) -> tuple[Any, ...]:
        if module.config._attn_implementation == "eager":
            output[0][:, first:] *= 0.9
        return output

    built.model.layers[0].self_attn.register_forward_hook(changed)
    with pytest.raises(ConfigError, match="is a llama, whose own attention computes other states than attention in regions"):
        check_network(opened(built))


def test_the_causality_that_a_network_states_in_the_call_counts() -> None:
    """Some networks pass `is_causal` instead of setting it on the module."""
    from elongate.context.attention.kernel.interface import attention

    q, k, v = torch.randn(3, 1, 2, 6, 4, generator=torch.Generator().manual_seed(0))
    for causal in (True, False):
        out, _ = attention(nn.Module(), q, k, v, None, is_causal=causal)
        expected = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        torch.testing.assert_close(out.transpose(1, 2), expected)


# -- tokens that meet outside attention ------------------------------------------------------------

LINEAR = {"linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
HYBRIDS: dict[str, Callable[..., PreTrainedModel]] = {
    "lfm2": lambda **f: Lfm2ForCausalLM(Lfm2Config(**SIZES | {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]} | f)),
    "qwen3_next": lambda **f: Qwen3NextForCausalLM(
        Qwen3NextConfig(
            **GROUPED | LINEAR | {"layer_types": ["linear_attention", "full_attention"], "mlp_only_layers": [0, 1]} | f,
        )
    ),
    "jamba": lambda **f: JambaForCausalLM(
        JambaConfig(
            **SIZES | {"num_key_value_heads": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 1} | f, mamba_d_state=4
        )
    ),
}


def hybrid(kind: str, **fields: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    built = HYBRIDS[kind](**fields)
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=0.3)
    return built


@pytest.mark.parametrize("kind", HYBRIDS)
def test_documents_and_windows_of_a_hybrid_are_refused(kind: str) -> None:
    model = opened(hybrid(kind))
    check_network(model)
    with pytest.raises(ConfigError, match=f"data.isolate_documents=true: cannot isolate the documents of a {kind}, whose tokens also"):
        check_isolation(model)
    with pytest.raises(ConfigError, match=f"context/attention=window: cannot act on a {kind}, whose tokens also meet outside its att"):
        check_attention(model, Window(window_length=8))
    check_attention(model, Full())


@pytest.mark.parametrize("kind", ["lfm2", "qwen3_next"])
def test_sampled_positions_of_a_hybrid_are_refused(kind: str) -> None:
    sampled = Strategy(position=Unchanged(), attention=Full(), curriculum=Fixed(), sampling=Pose(), target_length=128)
    with pytest.raises(ConfigError, match=f"context/sampling=pose: cannot act on a {kind}, whose tokens also meet outside its attention"):
        check_strategy(opened(hybrid(kind)), sampled, 64)


@pytest.mark.parametrize("kind", NETWORKS)
def test_documents_of_a_network_whose_tokens_meet_in_attention_are_isolated(kind: str) -> None:
    check_isolation(opened(network(kind, "elongate", torch.float32)))


def test_an_attention_that_sees_all_tokens_at_other_distances_may_act_on_a_hybrid() -> None:
    check_attention(opened(hybrid("lfm2")), SelfExtend())


@pytest.mark.slow
def test_a_run_with_isolated_documents_refuses_a_hybrid(build_tiny: Callable[..., Any], text_folder: Path, tmp_path: Path) -> None:
    hybrid("lfm2", vocab_size=258).save_pretrained(tmp_path / "checkpoint")
    ByteTokenizer().save(tmp_path / "checkpoint")
    source = ["model=pretrained", f"model.source={tmp_path}/checkpoint", "data=text", f"data.path={text_folder}"]
    job = build_tiny(*source, "context=none", "context.target_length=64", "data.isolate_documents=true")
    with pytest.raises(ConfigError, match=r"data\.isolate_documents=true: .* of a lfm2, .*; use data\.isolate_documents=false"):
        run(job, RunDirectory(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
