"""What encoder and decoder see, blockwise training compared with the whole, and what an extension changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.covering import all_pairs
from tests.models.autoencoders import (
    BLOCK,
    CONTEXT,
    DECODED,
    INPUTS,
    LATENTS,
    TEXT,
    VOCAB,
    YARN,
    assert_same,
    autoencoder,
    example,
    gradients,
)
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForMaskedLM

from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.plain import Plain
from elongate.models.autoencoder import layer, network
from elongate.models.autoencoder.autoencoder import Autoencoder
from elongate.models.autoencoder.encoder import latent_positions
from elongate.models.pretrained import Pretrained
from elongate.training.export import export

WAYS = ["continuation", "reconstruction"]


# -- exactness ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("way", "latents", "keep"), all_pairs(WAYS, LATENTS, [True, False]))
def test_block_after_block_gives_the_gradient_of_the_whole(way: str, latents: int, keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(network, "TOKENS_PER_CALL", BLOCK)
    whole_loss, whole = gradients(autoencoder(latents_per_block=latents), Plain(), example(way))
    model = autoencoder(latents_per_block=latents)
    model.network.model.encoder.register_forward_hook(lambda module, inputs, _: calls.append(len(inputs[0])))
    loss, parts = gradients(model, Checkpoint(keep_attention=keep, mlp_chunk_length=5), example(way))
    assert calls[:8] == [1] * 8  # one block of one row at a time
    assert loss == pytest.approx(whole_loss, rel=1e-13)
    assert_same(parts, whole, 1e-12)


@pytest.mark.parametrize("latents", LATENTS)
@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_is_that_of_dense_attention_under_a_mask_written_by_hand(
    way: str, latents: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = example(way)
    loss, ours = gradients(autoencoder(latents_per_block=latents), Checkpoint(), batch)

    def dense(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: None, layout: Any) -> tuple[Tensor, None]:
        queries, keys = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
        if layout is None:  # within a block, all tokens see each other
            seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
        else:
            own = keys - (k.shape[2] - q.shape[2])
            seen = (own < 0) | (own <= queries if way == "continuation" else own // BLOCK == queries // BLOCK)
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf)
        return (scores.softmax(-1) @ v).transpose(1, 2), None

    monkeypatch.setattr(layer, "attention", dense)
    model = autoencoder(latents_per_block=latents)
    logits = model.network(batch.inputs, context_ids=batch.context).logits
    expected = F.cross_entropy(logits[batch.scored], batch.targets[batch.scored])
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    assert_same(ours, {name: p.grad for name, p in model.network.named_parameters() if p.grad is not None}, 1e-10)


# -- which tokens a state depends on -----------------------------------------------------------


def dependencies(state: Tensor, model: Autoencoder) -> set[int]:
    """The tokens that a state depends on: the rows of the embedding that get a gradient."""
    weights = torch.randn(state.shape, dtype=state.dtype, generator=torch.Generator().manual_seed(3))
    (gradient,) = torch.autograd.grad((state * weights).sum(), model.network.model.encoder.embed_tokens.weight, retain_graph=True)
    return set(torch.nonzero(gradient.abs().sum(-1))[:, 0].tolist())


@pytest.mark.parametrize("latents", LATENTS)
def test_a_latent_depends_on_both_sides_of_its_block_and_on_no_other(latents: int) -> None:
    model = autoencoder(latents_per_block=latents)
    encoded, _ = model.network.model.encode(CONTEXT)
    assert encoded.shape[1] == 4 * latents
    for number in range(encoded.shape[1]):
        block = number // latents
        assert dependencies(encoded[0, number], model) == set(CONTEXT[0, BLOCK * block : BLOCK * (block + 1)].tolist())


@pytest.mark.parametrize("latents", LATENTS)
def test_a_continued_token_sees_all_latents_and_decoded_tokens_up_to_itself(latents: int) -> None:
    model = autoencoder(latents_per_block=latents)
    inner = model.network.model
    embedded = inner.encoder.embed_tokens(INPUTS).detach().requires_grad_()
    encoded, at = inner.encode(CONTEXT)
    encoded = encoded.detach().requires_grad_()
    states = inner.decode(embedded, torch.arange(15, 21)[None], (encoded, at), ((DECODED, encoded.shape[1]),), causal=True)
    for number in range(DECODED):
        tokens, seen = torch.autograd.grad(states[0, number].square().sum(), (embedded, encoded), retain_graph=True)
        assert (tokens[0].abs().sum(-1) > 0).tolist() == [other <= number for other in range(DECODED)]
        assert (seen[0].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("latents", LATENTS)
def test_a_reconstructed_place_sees_the_text_through_latents_only(latents: int) -> None:
    model = autoencoder(latents_per_block=latents)
    inner = model.network.model
    states = model.hidden(CONTEXT)
    for number in (0, 7, 15):
        assert dependencies(states[0, number], model) == set(CONTEXT[0].tolist())
    # Other tokens with the same latents give the same states.
    encode = inner.encode
    inner.encode = lambda ids, positions=None: encode(CONTEXT, positions)
    assert_close(model.hidden(CONTEXT.flip(1)), states, rtol=0, atol=0)


def test_without_compression_the_latents_are_the_states_of_the_tokens() -> None:
    inner = autoencoder().network.model
    encoded, at = inner.encode(TEXT)  # the last block is shorter
    assert at.tolist() == [list(range(22))]
    for start in range(0, 22, BLOCK):
        block = TEXT[:, start : start + BLOCK]
        assert_close(encoded[:, start : start + BLOCK], inner.encoder(block), rtol=0, atol=1e-14)
    assert inner.encoder.slots is None


@pytest.mark.parametrize(("length", "latents", "expected"), [(4, 4, [0, 1, 2, 3]), (4, 2, [1, 3]), (4, 1, [2]), (64, 4, [8, 24, 40, 56])])
def test_a_latent_has_the_position_of_the_middle_of_its_tokens(length: int, latents: int, expected: list[int]) -> None:
    assert latent_positions(length, latents, torch.device("cpu")).tolist() == expected
    assert expected == [int((j + 0.5) * length / latents) for j in range(latents)]


# -- positions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("latents", LATENTS)
def test_given_positions_are_those_of_the_whole_text(latents: int) -> None:
    model = autoencoder(latents_per_block=latents)
    counted = torch.arange(21)[None]
    assert_close(model.hidden(INPUTS, counted, context=CONTEXT), model.hidden(INPUTS, context=CONTEXT), rtol=0, atol=0)
    assert_close(model.hidden(TEXT, torch.arange(22)[None]), model.hidden(TEXT), rtol=0, atol=0)
    # Only distances matter, between latents and decoded tokens too.
    assert_close(model.hidden(INPUTS, counted + 9, context=CONTEXT), model.hidden(INPUTS, context=CONTEXT), rtol=0, atol=1e-5)
    apart = torch.cat([counted[:, :8], counted[:, 8:] + 30], dim=1)
    _, at = model.network.model.encode(CONTEXT, apart[:, :16])
    within = latent_positions(BLOCK, latents, apart.device).tolist()
    assert at[0].tolist() == apart[0, [i * BLOCK + p for i in range(4) for p in within]].tolist()
    assert (model.hidden(INPUTS, apart, context=CONTEXT) - model.hidden(INPUTS, context=CONTEXT)).abs().max() > 1e-3


@pytest.mark.parametrize("latents", LATENTS)
def test_a_scaling_changes_the_decoder_and_not_the_encoder(latents: int) -> None:
    model = autoencoder(latents_per_block=latents)
    before, continued = model.network.model.encode(CONTEXT)[0], model.hidden(INPUTS, context=CONTEXT)
    proof = model.extend(YARN, 16, 64)
    assert proof["rope_parameters"]["rope_type"] == "yarn"
    assert proof["frequency_error"] < 1e-6
    assert proof["angle_error"] < 1e-5
    assert proof["attention"]["word"] == "full"
    assert_close(model.network.model.encode(CONTEXT)[0], before, rtol=0, atol=0)
    assert (model.hidden(INPUTS, context=CONTEXT) - continued).abs().max() > 1e-3
    assert model.original_length == 16


# -- export ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("latents", LATENTS)
def test_an_export_is_opened_by_the_auto_classes_and_by_us(latents: int, tmp_path: Path) -> None:
    model = autoencoder(torch.float32, latents_per_block=latents)
    model.extend(YARN, 16, 64)
    export(model, ByteTokenizer(), tmp_path / "model")
    states = [model.hidden(TEXT), model.hidden(INPUTS, context=CONTEXT)]
    logits = [model.logits(hidden) for hidden in states]

    plain, inner = (cls.from_pretrained(tmp_path / "model") for cls in (AutoModelForMaskedLM, AutoModel))
    assert_close([plain(TEXT).logits, plain(INPUTS, context_ids=CONTEXT).logits], logits, rtol=0, atol=0)
    assert_close(inner(TEXT).last_hidden_state, states[0], rtol=0, atol=0)
    assert plain.lm_head.weight is plain.model.encoder.embed_tokens.weight
    ours = Pretrained(source=str(tmp_path / "model")).build(VOCAB, seed=5)
    assert (ours.has, ours.block_length, ours.original_length) == (model.has, BLOCK, 64)
    assert_close([ours.hidden(TEXT), ours.hidden(INPUTS, context=CONTEXT)], states, rtol=0, atol=0)


def test_a_padded_batch_is_refused() -> None:
    model = autoencoder().network
    assert_close(model(TEXT, attention_mask=torch.ones_like(TEXT)).logits, model(TEXT).logits, rtol=0, atol=0)
    with pytest.raises(ValueError, match="a padded batch cannot be read"):
        model(TEXT, attention_mask=torch.zeros_like(TEXT))
