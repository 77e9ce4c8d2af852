"""Through transformers: a network with this attention computes the same as with sdpa, or raises an error with the reason."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import pytest
import torch
from tests.covering import all_values
from tests.networks import VOCAB, network
from torch import Tensor
from torch.testing import assert_close
from transformers import AttentionInterface, PreTrainedModel

from elongate.context.attention.attention import Attention, Pattern
from elongate.context.attention.dual_chunk import DualChunk
from elongate.context.attention.full import Full
from elongate.context.attention.kernel.interface import IMPLEMENTATION, attention
from elongate.context.attention.rerope import ReRope
from elongate.context.attention.self_extend import SelfExtend
from elongate.context.attention.sinks import Sinks
from elongate.context.attention.string import String
from elongate.context.attention.window import Window, WindowPattern
from elongate.errors import ConfigError
from elongate.models.compatibility import check_attention
from elongate.models.language_model import LanguageModel

LENGTH, BORDER = 30, 11
CAUSAL = ["llama-1", "llama-2", "llama-8", "qwen3", "gpt2", "gpt_neox", "mistral", "gemma3", "deepseek"]
BIDIRECTIONAL = ["bert", "modernbert"]
TOKENS = torch.randint(VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(0))


def both(kind: str, **fields: Any) -> tuple[PreTrainedModel, PreTrainedModel]:
    return network(kind, "sdpa", **fields).eval(), network(kind, IMPLEMENTATION, **fields).eval()


def logits(model: PreTrainedModel, tokens: Tensor = TOKENS, **words: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=tokens, **words).logits


# -- equal results ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*CAUSAL, *BIDIRECTIONAL])
@pytest.mark.parametrize("length", [1, *(pytest.param(n, marks=pytest.mark.grid) for n in (2, 8)), 9, LENGTH])
def test_logits_equal_those_of_sdpa(kind: str, length: int) -> None:
    theirs, ours = both(kind)
    tokens = TOKENS[:, :length]
    assert_close(logits(ours, tokens), logits(theirs, tokens), rtol=1e-6, atol=1e-6)
    # The same with a layout, where the network would otherwise use torch's own call.
    model = LanguageModel(ours, kind)
    layout = model.layout(tokens, None)
    with torch.no_grad():
        hidden = model.hidden(tokens, None, layout.for_chunk(layout.chunk, None)) @ model.head.weight.T
        blocks = model.network.base_model(input_ids=tokens, layout=layout).last_hidden_state @ model.head.weight.T
    assert_close(blocks, hidden, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"scale_attn_weights": False}),
        ("gemma3", {"use_bidirectional_attention": True}),
        ("gemma3", {"query_pre_attn_scalar": 3}),
        ("mistral", {"sliding_window": 1}),
        ("mistral", {"sliding_window": None}),
        ("modernbert", {"local_attention": 2}),
        ("bert", {"is_decoder": True}),
    ],
    ids=str,
)
def test_settings_of_the_configuration_have_their_effect(kind: str, fields: dict[str, Any]) -> None:
    theirs, ours = both(kind, **fields)
    assert (logits(theirs) - logits(network(kind).eval())).abs().max() > 1e-2
    assert_close(logits(ours), logits(theirs), rtol=1e-6, atol=1e-6)


OPTIONS: list[dict[str, Any]] = [{}, {"use_cache": False}, {"num_beams": 3}]
PROMPTS = [1, 5, 20]  # tokens; Mistral and Gemma 3 have layers with a window of 8
# Default tests cover each network once, and each option with each prompt once.
GENERATED = {(kind, i % 3, PROMPTS[i // 3]) for i, kind in enumerate(CAUSAL)}
GENERATIONS = [
    pytest.param(kind, OPTIONS[i], length, marks=() if (kind, i, length) in GENERATED else pytest.mark.grid)
    for kind, i, length in product(CAUSAL, range(3), PROMPTS)
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "options", "length"), GENERATIONS, ids=str)
def test_generation_equals_that_of_sdpa(kind: str, options: dict[str, Any], length: int) -> None:
    theirs, ours = both(kind)
    tokens, options = TOKENS[:, :length], {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0} | options
    given = {"attention_mask": torch.ones_like(tokens)}
    assert torch.equal(ours.generate(tokens, **given, **options), theirs.generate(tokens, **given, **options))


def test_a_prompt_may_be_read_in_two_parts() -> None:
    """The second part sees the cache and itself."""
    for kind in ("llama-2", "mistral"):
        _, ours = both(kind)
        with torch.no_grad():
            first = ours(input_ids=TOKENS[:, :7], use_cache=True)
            second = ours(input_ids=TOKENS[:, 7:], past_key_values=first.past_key_values)
        assert_close(torch.cat([first.logits, second.logits], dim=1), logits(ours), rtol=1e-6, atol=1e-6)


# -- refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_refused(side: str) -> None:
    for kind in ("llama-2", "gpt2", "bert"):
        mask = torch.ones_like(TOKENS)
        mask[0, slice(3) if side == "left" else slice(-3, None)] = 0
        with pytest.raises(ValueError, match="attention in regions does not support padded batches: use rows of one length"):
            logits(network(kind, IMPLEMENTATION), attention_mask=mask)
        logits(network(kind, IMPLEMENTATION), attention_mask=torch.ones_like(TOKENS))


def test_a_mask_is_refused_instead_of_ignored() -> None:
    mask = torch.ones(1, 1, LENGTH, LENGTH, dtype=torch.bool)
    for kind in ("llama-2", "gpt2", "bert"):
        with pytest.raises(ValueError, match="passes a mask, which attention in regions does not support: load the model with sdpa"):
            logits(network(kind, IMPLEMENTATION), attention_mask=mask)


@pytest.mark.parametrize("kind", ["llama-2", "mistral", "gpt2"])
def test_a_static_cache_is_refused(kind: str) -> None:
    """Queries would see its empty entries."""
    ours = network(kind, IMPLEMENTATION).eval()
    with pytest.raises(ValueError, match="attention in regions does not support static caches: use a dynamic cache"):
        ours.generate(TOKENS[:, :5], max_new_tokens=4, cache_implementation="static", pad_token_id=0)


@pytest.mark.parametrize("fields", [{"attn_logit_softcapping": 0.5}, {"attn_logit_softcapping": 2.0, "sliding_window": 64}], ids=str)
def test_softcapped_scores_equal_those_of_eager(fields: dict[str, Any]) -> None:
    theirs, ours = network("gemma2", "eager", **fields).eval(), network("gemma2", IMPLEMENTATION, **fields).eval()
    assert_close(logits(ours), logits(theirs), rtol=1e-6, atol=1e-6)
    assert (logits(network("gemma2", "eager", attn_logit_softcapping=None).eval()) - logits(theirs)).abs().max() > 1e-3


def test_attention_dropout_is_refused_if_it_needs_the_whole_matrix() -> None:
    ours = network("gpt2", IMPLEMENTATION, attn_pdrop=0.1).train()
    model = LanguageModel(ours, "gpt2")
    assert logits(ours).isfinite().all()
    model.attention = WindowPattern(8)
    with pytest.raises(ValueError, match="attention dropout needs the whole matrix of weights"):
        model.hidden(TOKENS)


@pytest.mark.parametrize("kind", ["mistral", "gemma3"])
def test_attentions_with_positions_are_refused_on_layers_with_windows(kind: str) -> None:
    model = LanguageModel(network(kind, IMPLEMENTATION), kind)
    for chosen in (Sinks(num_sinks=2), SelfExtend(), ReRope(), DualChunk(), String()):
        with pytest.raises(ConfigError, match="whose layers have windows of their own; use context/attention=full or window"):
            check_attention(model, chosen)
    check_attention(model, Full())
    check_attention(model, Window(window_length=4))


# -- attentions with their own positions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "chosen"),
    all_values(["llama-1", "llama-2", "qwen3", "gpt_neox"], [Sinks(num_sinks=2), SelfExtend(), ReRope(), DualChunk()]),
)
def test_up_to_the_original_length_the_rotation_equals_that_of_the_network(kind: str, chosen: Attention) -> None:
    theirs, ours = both(kind)
    model = LanguageModel(ours, kind)
    check_attention(model, chosen)
    model.attention = chosen.for_length(4 * LENGTH, LENGTH)
    with torch.no_grad():
        found = model.hidden(TOKENS) @ model.head.weight.T
    assert_close(found, logits(theirs), rtol=1e-5, atol=1e-5)
    model.attention = chosen.for_length(LENGTH, LENGTH // 2)
    with torch.no_grad():
        assert (model.hidden(TOKENS) @ model.head.weight.T - found).abs().max() > 1e-2


def test_a_network_that_rotates_interleaved_pairs_is_refused() -> None:
    from transformers import CohereConfig, CohereForCausalLM

    config = CohereConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        attn_implementation=IMPLEMENTATION,
    )
    torch.manual_seed(0)
    interleaved = CohereForCausalLM(config)
    with torch.no_grad():
        for parameter in interleaved.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.3)
    with pytest.raises(ConfigError, match="does not rotate the two halves of a head alike in all layers"):
        check_attention(LanguageModel(interleaved, "cohere"), Sinks(num_sinks=2))


def test_factors_of_the_query_also_scale_unrotated_dimensions() -> None:
    """ReRoPE sharpens the scores of late queries: by the same factor for both halves of a head of GPT-NeoX."""
    original, width = 8, 7
    theirs = network("gpt_neox").eval()
    chosen = ReRope(window_length=width, plain_length=LENGTH).for_length(LENGTH, original)
    factors = chosen.query_scale(torch.arange(LENGTH)[None])[:, None, :, None]
    assert factors.max() > 1.3
    sdpa = AttentionInterface()["sdpa"]

    def sharpened(module: Any, query: Tensor, *others: Any, **words: Any) -> Any:
        return sdpa(module, query * factors, *others, **words)

    AttentionInterface.register("sharpened", sharpened)
    theirs.config._attn_implementation = "sharpened"
    mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()[None, None].expand(2, 1, -1, -1)
    expected = logits(theirs, attention_mask=mask)
    model = LanguageModel(network("gpt_neox", IMPLEMENTATION).eval(), "gpt_neox")
    model.attention = chosen
    with torch.no_grad():
        assert_close(model.hidden(TOKENS) @ model.head.weight.T, expected, rtol=1e-5, atol=1e-5)


# -- documents -------------------------------------------------------------------------------------------------------


def seen_across(model: LanguageModel, chosen: Pattern) -> tuple[float, float]:
    """Change of the hidden states of the second document with a token of the first, and vice versa."""
    model.attention = chosen
    positions = torch.cat([torch.arange(BORDER), torch.arange(LENGTH - BORDER)]).expand(2, LENGTH)
    with torch.no_grad():
        before = model.hidden(TOKENS, positions)
        changes = []
        for token in (BORDER - 1, BORDER):
            other = TOKENS.clone()
            other[:, token] = (other[:, token] + 1) % VOCAB
            changes.append((model.hidden(other, positions) - before).abs().amax(dim=(0, 2)))
    assert changes[0][BORDER - 1] > 1e-3
    assert changes[1][BORDER] > 1e-3
    return changes[0][BORDER:].max().item(), changes[1][:BORDER].max().item()


@pytest.mark.parametrize("chosen", [Full(), WindowPattern(7)], ids=lambda chosen: chosen.word)
@pytest.mark.parametrize("kind", ["llama-2", "qwen3", "gpt2", "mistral", "bert", "modernbert"])
def test_documents_do_not_see_each_other(kind: str, chosen: Pattern) -> None:
    assert seen_across(LanguageModel(network(kind, IMPLEMENTATION).eval(), kind), chosen) == (0, 0)


@pytest.mark.parametrize("chosen", [Sinks(num_sinks=2), SelfExtend(), ReRope(), DualChunk(), String()], ids=lambda chosen: chosen.word)
def test_documents_do_not_see_each_other_if_the_attention_has_positions(chosen: Attention) -> None:
    model = LanguageModel(network("llama-2", IMPLEMENTATION).eval(), "llama")
    assert seen_across(model, chosen.for_length(LENGTH, 8)) == (0, 0)


def test_the_comparison_notices_a_leak() -> None:
    model = LanguageModel(network("llama-2", IMPLEMENTATION).eval(), "llama")

    def leaking(*given: Any, layout: Any = None, **words: Any) -> Any:
        return attention(*given, **words)

    AttentionInterface.register("leaking", leaking)
    model.network.config._attn_implementation = "leaking"
    assert seen_across(model, Full())[0] > 1e-3


def test_each_document_is_computed_as_if_it_were_alone() -> None:
    """Rows have documents of different lengths."""
    for kind in ("llama-2", "gpt2", "bert", "modernbert"):
        theirs, ours = both(kind)
        model = LanguageModel(ours, kind)
        cuts = [[0, 1, BORDER, LENGTH], [0, 17, LENGTH]]
        positions = torch.stack([torch.cat([torch.arange(b - a) for a, b in pairwise(row)]) for row in cuts])
        with torch.no_grad():
            found = model.hidden(TOKENS, positions)
            for number, row in enumerate(cuts):
                for start, stop in pairwise(row):
                    alone = theirs.base_model(input_ids=TOKENS[number : number + 1, start:stop]).last_hidden_state
                    assert_close(found[number : number + 1, start:stop], alone, rtol=1e-6, atol=1e-6)
