"""The language part of a multimodal checkpoint is extended on text, and the whole checkpoint is exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.small import VOCAB, opened, strategy
from torch import nn
from torch.testing import assert_close
from transformers import (
    AutoModelForImageTextToText,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.errors import ConfigError
from elongate.memory.plain import Plain
from elongate.models.compatibility import check_network, check_strategy
from elongate.models.language_model import LanguageModel
from elongate.models.pretrained import Pretrained, check_vocabulary
from elongate.objectives.objective import Example
from elongate.training.export import export
from elongate.tuning.lora import Lora

pytestmark = pytest.mark.slow  # about a second each: networks with towers

LENGTH, TARGET = 64, 256
IMAGE, VISION_START, VISION_END = 300, 302, 303
TEXT: dict[str, Any] = {
    "vocab_size": 320,  # with tokens for images
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": LENGTH,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LOCAL = {"head_dim": 16, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
SECTIONS = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}
TOWER = {"hidden_size": 32, "intermediate_size": 32}
QWEN_TOWER = TOWER | {"depth": 1, "num_heads": 2, "out_hidden_size": 64}
LAYERS = TOWER | {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
TOKENS = {"image_token_id": IMAGE, "video_token_id": 301, "vision_start_token_id": VISION_START, "vision_end_token_id": VISION_END}

NETWORKS: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen2_5_vl": lambda: Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config=TEXT | {"rope_parameters": SECTIONS}, vision_config=QWEN_TOWER | {"fullatt_block_indexes": [0]}, **TOKENS
        )
    ),
    "qwen3_vl": lambda: Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            text_config=TEXT | {"head_dim": 16, "rope_parameters": SECTIONS | {"mrope_interleaved": True}},
            vision_config=QWEN_TOWER | {"deepstack_visual_indexes": [0], "num_position_embeddings": 16},
            **TOKENS,
        )
    ),
    "gemma3": lambda: Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=TEXT | LOCAL, vision_config=LAYERS, mm_tokens_per_image=1, image_token_index=IMAGE)
    ),
    "mistral3": lambda: Mistral3ForConditionalGeneration(
        Mistral3Config(
            text_config=TEXT | {"model_type": "mistral"}, vision_config=LAYERS | {"model_type": "pixtral"}, image_token_index=IMAGE
        )
    ),
}
GEMMA4 = LOCAL | {
    "global_head_dim": 32,
    "vocab_size_per_layer_input": 320,
    "hidden_size_per_layer_input": 8,
    "final_logit_softcapping": 30.0,
    "pad_token_id": 0,
}


def saved(build: Callable[[], PreTrainedModel], folder: Path) -> Pretrained:
    torch.manual_seed(0)
    network = build()
    for parameter in network.parameters():
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, std=0.2)
    network.save_pretrained(folder)
    return Pretrained(source=str(folder))


def extended(source: Pretrained, word: str = "yarn") -> LanguageModel:
    model, chosen = opened(source), strategy(word, target_length=TARGET)
    check_network(model)
    assert source.original_length == model.original_length == LENGTH
    check_strategy(model, chosen, LENGTH)
    model.extend(chosen, LENGTH, TARGET)
    return model


def trained(model: LanguageModel) -> None:
    """One step of gradient descent."""
    tokens = torch.randint(VOCAB, (1, TARGET + 1), generator=torch.Generator().manual_seed(0))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    Plain().backward(model, Example(inputs, targets, torch.ones_like(targets, dtype=torch.bool), None))
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter -= 0.01 * parameter.grad


def assert_text_logits_agree(model: LanguageModel, folder: Path) -> PreTrainedModel:
    export(model, ByteTokenizer(), folder)
    plain: PreTrainedModel = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager").eval()
    tokens = torch.randint(VOCAB, (1, TARGET), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for length in (LENGTH, TARGET):
            ours = model.logits(model.hidden(tokens[:, :length]))
            scale = ours.abs().max()
            assert_close(plain(input_ids=tokens[:, :length], use_cache=False).logits / scale, ours / scale, rtol=0, atol=1e-5)
    return plain


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_language_part_is_extended_and_the_whole_checkpoint_exported(kind: str, tmp_path: Path) -> None:
    source = saved(NETWORKS[kind], tmp_path / "source")
    model = extended(source)
    before = {name: weight.clone() for name, weight in model.network.named_parameters() if not weight.requires_grad}
    assert any("vision" in name or "visual" in name for name in before)
    assert not any("language_model" in name or "lm_head" in name for name in before)
    trained(model)
    plain = assert_text_logits_agree(model, tmp_path / "extended")
    assert plain.config.text_config.max_position_embeddings == TARGET
    exported = dict(plain.named_parameters())
    for name, weight in before.items():
        assert torch.equal(exported[name], weight)


@pytest.mark.parametrize("word", ["ntk", "pi", "longrope", "yarn"])
def test_positions_of_three_axes_keep_their_sections(word: str, tmp_path: Path) -> None:
    model = extended(saved(NETWORKS["qwen2_5_vl"], tmp_path / "source"), word)
    assert model.network.config.text_config.rope_parameters["mrope_section"] == [2, 3, 3]
    assert_text_logits_agree(model, tmp_path / "extended")


def test_an_image_and_a_long_text_are_read_by_plain_transformers(tmp_path: Path) -> None:
    model = extended(saved(NETWORKS["qwen2_5_vl"], tmp_path / "source"))
    plain = assert_text_logits_agree(model, tmp_path / "extended")
    # 4 × 4 patches of 2 frames × 3 colours × 14 × 14 pixels; 2 × 2 of them are one token.
    image = {"pixel_values": torch.randn(16, 1176), "image_grid_thw": torch.tensor([[1, 4, 4]])}
    text = torch.arange(TARGET - 6) % VOCAB
    tokens = torch.cat([torch.tensor([VISION_START, *[IMAGE] * 4, VISION_END]), text])[None]
    kinds = (tokens == IMAGE).int()
    with torch.no_grad():
        logits = plain(input_ids=tokens, mm_token_type_ids=kinds, **image).logits
        other = plain(input_ids=tokens, mm_token_type_ids=kinds, **image | {"pixel_values": torch.randn(16, 1176)}).logits
    assert logits.isfinite().all()
    assert not torch.equal(logits[:, -1], other[:, -1])


def test_gemma_4_whose_layers_have_heads_of_two_sizes(tmp_path: Path) -> None:
    source = saved(lambda: Gemma4ForConditionalGeneration(Gemma4Config(text_config=TEXT | GEMMA4)), tmp_path / "source")
    model = extended(source, "ntk")
    assert model.head.adjustment.cap == 30.0
    assert_text_logits_agree(model, tmp_path / "extended")
    with pytest.raises(ConfigError, match="yarn: cannot act on a gemma4 whose rotary embedding does not take such frequencies; use "):
        check_strategy(model, strategy("yarn", target_length=TARGET), LENGTH)


def test_lora_acts_on_the_language_part(tmp_path: Path) -> None:
    model = opened(saved(NETWORKS["qwen3_vl"], tmp_path / "source"))
    names = Lora().target_layers(model.network)
    assert names
    assert all("language_model" in name for name in names)


def test_the_vocabulary_is_that_of_the_language_part(tmp_path: Path) -> None:
    model = opened(saved(NETWORKS["gemma3"], tmp_path / "source"))
    check_vocabulary(model, 320)
    with pytest.raises(ConfigError, match="gives ids up to 320, and the checkpoint's embedding has 320 rows"):
        check_vocabulary(model, 321)
