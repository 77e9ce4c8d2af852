"""The head of a network, apart from its body: loss, gradients and logits are those of transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.networks import SIZES, VOCAB, network
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    CohereConfig,
    CohereForCausalLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    FalconH1Config,
    FalconH1ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    GraniteMoeConfig,
    GraniteMoeForCausalLM,
    MiniCPM3Config,
    MiniCPM3ForCausalLM,
    MobileBertConfig,
    MobileBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    NanoChatConfig,
    NanoChatForCausalLM,
    PreTrainedModel,
    RemBertConfig,
    RemBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from elongate.errors import ConfigError
from elongate.memory.plain import Plain
from elongate.memory.planner.dry_run import dry_run
from elongate.models.compatibility import check_head
from elongate.models.head import Adjustment
from elongate.models.language_model import LanguageModel
from elongate.objectives.cross_entropy import summed_cross_entropy
from elongate.scoring.left_to_right import LeftToRight

ONE = SIZES | {"num_hidden_layers": 1}
GROUPED = ONE | {"num_key_value_heads": 2, "head_dim": 8}
TOKENS = torch.arange(1, 41).view(2, 20)
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16, "mamba_d_ssm": 64}

MASKED: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: BertForMaskedLM(BertConfig(**ONE)),
    "modernbert": lambda: ModernBertForMaskedLM(ModernBertConfig(**ONE | {"cls_token_id": None, "sep_token_id": None})),
    "electra": lambda: ElectraForMaskedLM(ElectraConfig(**ONE, embedding_size=16)),
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**ONE | {"pad_token_id": 0})),
    "distilbert": lambda: DistilBertForMaskedLM(
        DistilBertConfig(vocab_size=VOCAB, dim=32, hidden_dim=48, n_layers=1, n_heads=4, max_position_embeddings=64, pad_token_id=None)
    ),
    "albert": lambda: AlbertForMaskedLM(AlbertConfig(**ONE, embedding_size=16)),
    "rembert": lambda: RemBertForMaskedLM(RemBertConfig(**ONE, input_embedding_size=16, output_embedding_size=48)),
    "mobilebert": lambda: MobileBertForMaskedLM(
        MobileBertConfig(**ONE | {"pad_token_id": 0}, embedding_size=16, intra_bottleneck_size=16, trigram_input=True)
    ),
}
ADJUSTED: dict[str, tuple[Callable[[], PreTrainedModel], Adjustment]] = {
    "cohere": (lambda: CohereForCausalLM(CohereConfig(**ONE, num_key_value_heads=2, logit_scale=0.0625)), Adjustment(0.0625)),
    "granite": (lambda: GraniteForCausalLM(GraniteConfig(**ONE, num_key_value_heads=2, logits_scaling=8.0)), Adjustment(0.125)),
    "granite of experts": (
        lambda: GraniteMoeForCausalLM(
            GraniteMoeConfig(**ONE, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, logits_scaling=6.0)
        ),
        Adjustment(1 / 6),
    ),
    "minicpm": (lambda: MiniCPM3ForCausalLM(MiniCPM3Config(**ONE, **LATENT, dim_model_base=8)), Adjustment(0.25)),
    "falcon_h1": (
        lambda: FalconH1ForCausalLM(FalconH1Config(**ONE, **MAMBA, num_key_value_heads=2, lm_head_multiplier=0.01953125)),
        Adjustment(0.01953125),
    ),
    "gemma2": (lambda: Gemma2ForCausalLM(Gemma2Config(**GROUPED, attn_logit_softcapping=None)), Adjustment(cap=30.0)),
    "small cap": (
        lambda: Gemma2ForCausalLM(Gemma2Config(**GROUPED, attn_logit_softcapping=None, final_logit_softcapping=2.0)),
        Adjustment(cap=2.0),
    ),
    "large cap": (
        lambda: Gemma2ForCausalLM(Gemma2Config(**GROUPED, attn_logit_softcapping=None, final_logit_softcapping=1000.0)),
        Adjustment(cap=1000.0),
    ),
    "nanochat": (lambda: NanoChatForCausalLM(NanoChatConfig(**ONE, num_key_value_heads=2)), Adjustment(cap=15.0)),
}


def opened(built: PreTrainedModel) -> LanguageModel:
    built.double().eval().set_attn_implementation("elongate")
    built.config._experts_implementation = "eager"  # the default has no float64
    draw = torch.Generator().manual_seed(0)
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.3, generator=draw)
    return LanguageModel(built, "opened")


@pytest.mark.parametrize("kind", MASKED)
def test_head_inputs_are_those_of_the_network(kind: str) -> None:
    model = opened(MASKED[kind]())
    with torch.no_grad():
        hidden = model.hidden(TOKENS)
        logits = model.logits(hidden)
        assert_close(logits, model.network(TOKENS).logits, rtol=0, atol=1e-11)
        # It acts token by token, so scored tokens may be selected before it.
        assert_close(model.head_inputs(hidden[:, 3:5]), model.head_inputs(hidden)[:, 3:5], rtol=0, atol=1e-12)
    check_head(model)


@pytest.mark.parametrize("kind", ADJUSTED)
def test_loss_and_gradients_of_scaled_and_capped_logits_are_those_of_transformers(kind: str) -> None:
    build, adjustment = ADJUSTED[kind]
    model = opened(build())
    check_head(model)
    assert model.adjustment is not None
    assert model.adjustment.cap == adjustment.cap
    assert model.adjustment.scale == pytest.approx(adjustment.scale, rel=1e-8)
    inputs, targets = TOKENS[:, :-1], TOKENS[:, 1:]

    def gradient(loss: Tensor) -> Tensor:
        found = torch.autograd.grad(loss, model.parameters(), allow_unused=True, materialize_grads=True)
        return torch.cat([x.flatten() for x in found])

    theirs = F.cross_entropy(model.network(inputs, use_cache=False).logits.flatten(0, 1).double(), targets.flatten(), reduction="sum")
    hidden = model.hidden(inputs)
    ours = summed_cross_entropy(model.head_inputs(hidden).flatten(0, 1), model.head, targets.flatten())
    assert_close(ours.double(), theirs, rtol=1e-6, atol=0)
    expected = gradient(theirs)
    assert (gradient(ours) - expected).abs().max() < 1e-6 * expected.norm()


def test_answers_and_curves_use_the_adjusted_logits() -> None:
    model = opened(ADJUSTED["small cap"][0]())
    losses = LeftToRight().losses(model, TOKENS.numpy(), 64)
    with torch.no_grad():
        chances = model.network(TOKENS[:, :-1]).logits.log_softmax(-1)
    assert_close(torch.from_numpy(losses[:, 1:]), -chances.gather(2, TOKENS[:, 1:, None])[..., 0], rtol=1e-6, atol=1e-6)


def test_a_cap_that_only_shows_in_large_logits_is_found() -> None:
    model = opened(ADJUSTED["gemma2"][0]())
    with torch.no_grad():
        model.network.get_output_embeddings().weight.mul_(1e-4)
    assert model.adjustment == Adjustment(cap=30.0)


@pytest.mark.slow
def test_a_dry_run_before_the_first_use_of_the_head() -> None:
    assert dry_run(opened(ADJUSTED["cohere"][0]()), Plain(), 1, 8).peak > 0


@pytest.mark.parametrize("cap", [None, 40.0])
def test_a_network_that_does_something_else_to_its_logits_is_refused(cap: float | None) -> None:
    """A cap that the configuration does not state, or another than it states, only shows in large logits."""
    built = network("llama-2", dtype=torch.float32)
    built.config.final_logit_softcapping = cap

    def capped(_: nn.Module, __: Any, output: Any) -> Any:
        output.logits = 50 * torch.tanh(output.logits / 50)
        return output

    built.set_attn_implementation("elongate")
    built.eval().register_forward_hook(capped)
    with pytest.raises(ConfigError, match=r"is a llama, which changes its logits after the head; name a checkpoint whose head is a matrix"):
        check_head(LanguageModel(built, "changed"))
