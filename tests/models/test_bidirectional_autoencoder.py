"""What the encoder and the decoder see, block-wise training against the whole, and what an extension changes."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from tests.conftest import TINY, TINY_EVALUATION, composed
from tests.memory.test_exactness import Bytes
from tests.models.autoencoders import BLOCK, SIZES, VOCAB, autoencoder
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForMaskedLM, BertConfig, BertForMaskedLM, BertModel

from elongate.build import build_job
from elongate.cli import conf_directory
from elongate.context.attention.full import Full
from elongate.context.curriculum.fixed import Fixed
from elongate.context.position.yarn import Yarn
from elongate.context.strategy import Strategy
from elongate.errors import ConfigError
from elongate.evaluate import evaluate_checkpoint
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.memory import Memory
from elongate.memory.plain import Plain
from elongate.memory.stream import Stream
from elongate.models.autoencoder import layer, network
from elongate.models.autoencoder.autoencoder import Autoencoder
from elongate.models.autoencoder.encoder import places
from elongate.models.bidirectional_autoencoder import BidirectionalAutoencoder
from elongate.models.pretrained import Pretrained
from elongate.objectives.objective import Example
from elongate.training.origin import export
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory

LATENTS = [4, 2, 1]
YARN = Strategy(position=Yarn(), attention=Full(), curriculum=Fixed(), target_length=64)
TEXT = torch.randperm(VOCAB, generator=torch.Generator().manual_seed(1))[None, :22]  # no token twice
DECODED = 6  # tokens of it that continue the others, four blocks
CONTEXT, INPUTS = TEXT[:, :-DECODED], TEXT[:, -DECODED - 1 : -1]


def example(way: str, rows: int = 2, context: int = 4 * BLOCK) -> Example:
    draw = torch.Generator().manual_seed(2)
    text = torch.randint(VOCAB, (rows, context + DECODED), generator=draw)
    if way == "reconstruction":
        # Not a whole number of blocks: the last one is shorter.
        return Example(text, text.flip(1), torch.ones_like(text, dtype=torch.bool), None)
    targets = text[:, -DECODED:]
    scored = torch.rand(targets.shape, generator=draw) < 0.8
    return Example(text[:, -DECODED - 1 : -1], targets, scored, None, context=text[:, :-DECODED])


def gradients(model: Autoencoder, plan: Memory, batch: Example) -> tuple[float, dict[str, Tensor]]:
    model.network.train()
    loss = plan.prepare(model, batch.length).backward(model, batch)
    return loss, {name: p.grad for name, p in model.network.named_parameters() if p.grad is not None}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        error = ((ours[name] - gradient).norm() / gradient.norm()).item()
        assert error <= tolerance, f"{name} is off by {error:.1e}"


# -- exactness -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("latents", LATENTS)
@pytest.mark.parametrize("way", ["continuation", "reconstruction"])
def test_block_after_block_gives_the_gradient_of_the_whole(way: str, latents: int, keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(network, "READ_AT_ONCE", BLOCK)
    whole_loss, whole = gradients(autoencoder(latents_per_block=latents), Plain(), example(way))
    model = autoencoder(latents_per_block=latents)
    model.network.model.encoder.register_forward_hook(lambda module, given, made: calls.append(len(given[0])))
    loss, parts = gradients(model, Checkpoint(keep_attention=keep, mlp_chunk_length=5), example(way))
    assert calls[:8] == [1] * 8  # one block of one row at a time
    assert loss == pytest.approx(whole_loss, rel=1e-13)
    assert_same(parts, whole, 1e-12)


@pytest.mark.parametrize("latents", LATENTS)
@pytest.mark.parametrize("way", ["continuation", "reconstruction"])
def test_the_gradient_is_that_of_dense_attention_under_a_mask_written_by_hand(
    way: str, latents: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = example(way)
    loss, ours = gradients(autoencoder(latents_per_block=latents), Checkpoint(), batch)

    def dense(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: None, layout: Any) -> tuple[Tensor, None]:
        queries, keys = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
        if layout is None:  # a block: all see all
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


# -- who sees whom ---------------------------------------------------------------------------------------------------------


def reached(state: Tensor, model: Autoencoder) -> set[int]:
    """The tokens of the text that a state depends on, read off the rows of the embedding that get a gradient."""
    weights = torch.randn(state.shape, dtype=state.dtype, generator=torch.Generator().manual_seed(3))
    (gradient,) = torch.autograd.grad((state * weights).sum(), model.network.model.encoder.embed_tokens.weight, retain_graph=True)
    return set(torch.nonzero(gradient.abs().sum(-1))[:, 0].tolist())


@pytest.mark.parametrize("latents", LATENTS)
def test_a_latent_is_made_of_its_own_block_from_both_sides_and_of_no_other(latents: int) -> None:
    model = autoencoder(latents_per_block=latents)
    encoded, _ = model.network.model.encode(CONTEXT)
    assert encoded.shape[1] == 4 * latents
    for number in range(encoded.shape[1]):
        block = number // latents
        assert reached(encoded[0, number], model) == set(CONTEXT[0, BLOCK * block : BLOCK * (block + 1)].tolist())


@pytest.mark.parametrize("latents", LATENTS)
def test_a_continued_token_sees_all_latents_and_the_decoded_tokens_up_to_itself(latents: int) -> None:
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
def test_a_reconstructed_place_sees_the_whole_text_through_its_latents_and_no_token_itself(latents: int) -> None:
    model = autoencoder(latents_per_block=latents)
    inner = model.network.model
    states = model.hidden(CONTEXT)
    for number in (0, 7, 15):
        assert reached(states[0, number], model) == set(CONTEXT[0].tolist())
    # Other tokens, the same latents: nothing else tells the decoder what the text was.
    encode = inner.encode
    inner.encode = lambda ids, positions=None: encode(CONTEXT, positions)
    assert_close(model.hidden(CONTEXT.flip(1)), states, rtol=0, atol=0)


def test_where_nothing_is_compressed_the_latents_are_the_states_of_the_tokens() -> None:
    inner = autoencoder().network.model
    encoded, at = inner.encode(TEXT)  # the last block is shorter
    assert at.tolist() == [list(range(22))]
    for start in range(0, 22, BLOCK):
        block = TEXT[:, start : start + BLOCK]
        assert_close(encoded[:, start : start + BLOCK], inner.encoder(block), rtol=0, atol=1e-14)
    assert inner.encoder.slots is None


@pytest.mark.parametrize(("length", "latents", "expected"), [(4, 4, [0, 1, 2, 3]), (4, 2, [1, 3]), (4, 1, [2]), (64, 4, [8, 24, 40, 56])])
def test_a_latent_stands_in_the_middle_of_its_tokens(length: int, latents: int, expected: list[int]) -> None:
    assert places(length, latents, torch.device("cpu")).tolist() == expected
    assert expected == [int((j + 0.5) * length / latents) for j in range(latents)]


# -- positions -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latents", LATENTS)
def test_positions_that_are_given_are_those_of_the_whole_text(latents: int) -> None:
    model = autoencoder(latents_per_block=latents)
    counted = torch.arange(21)[None]
    assert_close(model.hidden(INPUTS, counted, context=CONTEXT), model.hidden(INPUTS, context=CONTEXT), rtol=0, atol=0)
    assert_close(model.hidden(TEXT, torch.arange(22)[None]), model.hidden(TEXT), rtol=0, atol=0)
    # Only distances matter, between latents and decoded tokens too.
    assert_close(model.hidden(INPUTS, counted + 9, context=CONTEXT), model.hidden(INPUTS, context=CONTEXT), rtol=0, atol=1e-5)
    apart = torch.cat([counted[:, :8], counted[:, 8:] + 30], dim=1)
    _, at = model.network.model.encode(CONTEXT, apart[:, :16])
    assert at[0].tolist() == apart[0, [i * BLOCK + p for i in range(4) for p in places(BLOCK, latents, apart.device).tolist()]].tolist()
    assert (model.hidden(INPUTS, apart, context=CONTEXT) - model.hidden(INPUTS, context=CONTEXT)).abs().max() > 1e-3


@pytest.mark.parametrize("latents", LATENTS)
def test_a_scaling_changes_the_decoder_and_not_the_encoder_and_its_proof_holds(latents: int) -> None:
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


# -- what leaves the program -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latents", LATENTS)
def test_what_was_saved_is_opened_by_the_auto_classes_and_by_us(latents: int, tmp_path: Path) -> None:
    job = build_job(*composed("model=bidirectional_autoencoder"))
    model = autoencoder(torch.float32, latents_per_block=latents)
    model.extend(YARN, 16, 64)
    export(model, job.tokenizer.fit(job.data), tmp_path / "model")
    states = [model.hidden(TEXT), model.hidden(INPUTS, context=CONTEXT)]
    logits = [F.linear(hidden, *model.head) for hidden in states]

    plain, inner = (cls.from_pretrained(tmp_path / "model") for cls in (AutoModelForMaskedLM, AutoModel))
    assert_close([plain(TEXT).logits, plain(INPUTS, context_ids=CONTEXT).logits], logits, rtol=0, atol=0)
    assert_close(inner(TEXT).last_hidden_state, states[0], rtol=0, atol=0)
    assert plain.lm_head.weight is plain.model.encoder.embed_tokens.weight
    ours = Pretrained(source=str(tmp_path / "model")).build(VOCAB, seed=5)
    assert (ours.has, ours.block_length, ours.original_length) == (model.has, BLOCK, 64)
    assert_close([ours.hidden(TEXT), ours.hidden(INPUTS, context=CONTEXT)], states, rtol=0, atol=0)


def test_a_padded_batch_is_not_read_as_if_it_were_not() -> None:
    model = autoencoder().network
    assert_close(model(TEXT, attention_mask=torch.ones_like(TEXT)).logits, model(TEXT).logits, rtol=0, atol=0)
    with pytest.raises(ValueError, match="a padded batch cannot be read"):
        model(TEXT, attention_mask=torch.zeros_like(TEXT))


# -- memory ----------------------------------------------------------------------------------------------------------------


def counted(plan: Memory, blocks: int, latents: int) -> int:
    """Bytes that a step of continuation holds at most, beyond the parameters, their gradients and the batch."""
    # A small encoder: the gradient of all its weights is held once while its blocks go backward, however many they are.
    model = autoencoder(torch.float32, block_length=8, latents_per_block=latents, num_encoder_layers=1, mlp_dim=8)
    batch = example("continuation", 1, 8 * blocks)
    model.network.train()
    prepared = plan.prepare(model, batch.length)
    prepared.backward(model, batch)  # the gradients are there
    gc.collect()
    gc.disable()
    try:
        held = [*model.network.parameters(), *(p.grad for p in model.parameters() if p.grad is not None), *vars(batch).values()]
        with Bytes([tensor for tensor in held if torch.is_tensor(tensor)]) as counting:
            prepared.backward(model, batch)
    finally:
        gc.enable()
    return counting.peak


@pytest.mark.parametrize(("latents", "keep"), [(8, True), (8, False), (2, True)])
def test_a_further_token_costs_a_checkpointed_step_the_same_however_many_blocks_there_are(
    latents: int, keep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "READ_AT_ONCE", 8)  # a block

    def per_token(plan: Memory) -> tuple[float, float]:
        few, more, most = (counted(plan, blocks, latents) for blocks in (16, 32, 64))
        return (more - few) / (16 * 8), (most - more) / (32 * 8)

    checkpoint, plain = per_token(Checkpoint(keep_attention=keep)), per_token(Plain(micro_batch_tokens=1))
    assert checkpoint[1] == pytest.approx(checkpoint[0], rel=0.02)
    # Of each latent (128 bytes): itself, its gradient, and what one layer of the decoder makes of it; of the encoder, nothing.
    assert checkpoint[1] < 9 * 128 * latents / 8
    assert checkpoint[1] < plain[1] / 2.5


def test_streaming_is_refused_with_what_to_use_instead() -> None:
    with pytest.raises(ConfigError, match=r"memory=stream: cannot train model=bidirectional_autoencoder: .*; use memory=checkpoint"):
        Stream(chunk_length=8).prepare(autoencoder(), 16)


# -- a pretrained encoder --------------------------------------------------------------------------------------------------

BERT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 6,
    "hidden_dropout_prob": 0.0,
}


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    torch.manual_seed(4)
    BertForMaskedLM(BertConfig(**BERT)).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def started(bert: Path, **fields: Any) -> Autoencoder:
    return BidirectionalAutoencoder(**SIZES | {"encoder": str(bert)} | fields).build(VOCAB, seed=0)  # type: ignore[return-value]


def test_a_pretrained_bert_is_the_encoder(bert: Path) -> None:
    model, theirs = started(bert), BertModel.from_pretrained(bert, add_pooling_layer=False).eval()
    ours = model.network.model.encoder.bert
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weight), name
    assert model.network.lm_head.weight is ours.embeddings.word_embeddings.weight
    model.network.eval()
    encoded, _ = model.network.model.encode(CONTEXT)
    assert_close(encoded[0], theirs(CONTEXT.view(4, BLOCK)).last_hidden_state.flatten(0, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("latents", [4, 2])
def test_a_pretrained_encoder_is_trained_block_by_block_saved_and_extended(latents: int, bert: Path, tmp_path: Path) -> None:
    def built() -> Autoencoder:
        model = started(bert, latents_per_block=latents)
        model.network.double()
        return model

    whole_loss, whole = gradients(built(), Plain(), example("continuation"))
    loss, parts = gradients(built(), Checkpoint(), example("continuation"))
    assert loss == pytest.approx(whole_loss, rel=1e-13)
    # The same number added to all scores of a query changes nothing: the bias of the keys has no gradient but rounding.
    assert_same(*({n: g for n, g in found.items() if not n.endswith("key.bias")} for found in (parts, whole)), 1e-11)

    model = started(bert, latents_per_block=latents)
    before = model.network.eval().model.encode(CONTEXT)[0]
    assert model.extend(YARN, 16, 64)["frequency_error"] < 1e-6
    assert model.last_position(1000) == 1000
    assert_close(model.network.model.encode(CONTEXT)[0], before, rtol=0, atol=0)
    model.save(tmp_path / "saved")
    ours = Pretrained(source=str(tmp_path / "saved")).build(VOCAB, seed=5)
    ours.network.eval()
    assert_close(ours.hidden(INPUTS, context=CONTEXT), model.hidden(INPUTS, context=CONTEXT), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"dim": 64}, r"model\.dim=64: must be 32, that of the encoder .*; use model\.dim=32"),
        ({"num_encoder_layers": 1}, r"model\.num_encoder_layers=1: must be 2"),
        (
            {"block_length": 8, "latents_per_block": 8},
            r"model\.block_length=8: is more than the encoder has positions for: 6, .*=6",
        ),
        ({"encoder": "./nowhere"}, r"encoder=\./nowhere: there is no such folder"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused(fields: dict[str, Any], told: str, bert: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        started(bert, **fields)


def test_a_checkpoint_of_another_kind_is_no_encoder(tmp_path: Path) -> None:
    autoencoder(torch.float32).save(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"model\.encoder=.*: is a bidirectional_autoencoder, which cannot be the encoder; name a BERT"):
        started(tmp_path / "other")


# -- whole runs ------------------------------------------------------------------------------------------------------------

SMALL = ["original_length=32", "block_length=8", "latents_per_block=8", "dim=32", "num_heads=4", "mlp_dim=48"]
MODEL = ["model=bidirectional_autoencoder", *(f"model.{size}" for size in (*SMALL, "num_encoder_layers=1", "num_decoder_layers=2"))]


@pytest.fixture
def ran(text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)

    def ran(name: str, *overrides: str) -> tuple[RunDirectory, dict[str, Any]]:
        evaluation = [] if "evaluation=[]" in overrides else TINY_EVALUATION
        small = [*TINY, *evaluation, "context.curriculum.base.steps=2", "data=text", f"data.path={text_folder}", f"data.cache={tmp_path}/c"]
        directory = RunDirectory(tmp_path / name)
        directory.path.mkdir()
        return directory, run(build_job(*composed(*small, *overrides)), directory)

    return ran


def test_a_run_goes_from_base_to_report_and_is_measured_again(ran: Callable[..., Any], tmp_path: Path) -> None:
    directory, results = ran("run", *MODEL)
    assert results["strategy"]["objective"] == "continuation"
    assert results["strategy"]["proof"]["frequency_error"] < 1e-5
    assert [line["length"] for line in directory.read_metrics()] == [32, 32, 128, 128, 128]
    table = results["curve"]["table"]
    assert table["edges"][:3] == [0, 8, 32]
    assert all(table[row]["loss"][0] is None for row in ("before", "untuned", "after"))  # within the first stretch
    assert all(loss is not None for row in ("before", "untuned", "after") for loss in table[row]["loss"][1:])
    assert {"before", "untuned", "after"} <= set(results["needle"])
    assert AutoModelForMaskedLM.from_pretrained(directory.model).config.rope_parameters["rope_type"] == "yarn"

    (tmp_path / "again").mkdir()
    with initialize_config_dir(str(conf_directory()), version_base="1.3"):
        config = compose("evaluate", overrides=[f"checkpoint={directory.path}"])
    again = evaluate_checkpoint(config, conf_directory(), tmp_path / "again")[0]
    assert again["curve"]["table"]["after"] == table["after"]
    assert again["needle"]["after"] == results["needle"]["after"]
    assert json.loads((directory.model / "config.json").read_text())["encoder_rope_theta"] == 10_000


@pytest.mark.parametrize("latents", [8, 2])
def test_every_memory_plan_gives_the_same_run_and_a_checkpoint_is_extended_further(latents: int, ran: Callable[..., Any]) -> None:
    more = [*MODEL, f"model.latents_per_block={latents}", "evaluation=[]", "context=none"]
    first, whole = ran("whole", *more)
    _, blocks = ran("blocks", *more, "memory=checkpoint")
    assert blocks["stages"][0]["loss"] == pytest.approx(whole["stages"][0]["loss"], abs=1e-6)
    _, half = ran("half", *more, "precision=bf16")
    assert half["stages"][0]["loss"] == pytest.approx(whole["stages"][0]["loss"], abs=2e-2)
    further = ["model=pretrained", f"model.source={first.model}", "context=yarn", "evaluation=[]", "objective=continuation"]
    _, second = ran("second", *further, "objective.continuation_length=16", "context.target_length=256")
    assert (second["strategy"]["original_length"], second["stages"][0]["length"]) == (128, 256)
    with pytest.raises(ConfigError, match=r"context\.target_length=250: leaves 234 of 250 .*use context\.target_length=248"):
        ran("third", *further, "objective.continuation_length=16", "context.target_length=250")


REFUSED = [
    ("model.latents_per_block=9", r"model\.latents_per_block=9: is more than the block_length of 8 tokens .*; use \S+=8 or less"),
    ("model.latents_per_block=0", r"model\.latents_per_block=0: must be at least 1"),
    ("model.original_length=30", r"model\.original_length=30: must be a whole number of blocks of 8 tokens; use model\.original_length=32"),
    ("model.num_kv_heads=3", r"model\.num_kv_heads=3: must divide num_heads=4"),
    ("context.target_length=100", r"context\.target_length=100: leaves 84 of 100 tokens to encode, .*; use context\.target_length=96"),
    ("objective.continuation_length=12", r"objective\.continuation_length=12: leaves 20 of 32 .*; use objective\.continuation_length=16"),
    ("objective.continuation_length=32", r"objective\.continuation_length=32: leaves 0 of 32 tokens to encode.*; use \S+=24"),
    (
        "model.block_length=32 model.latents_per_block=8",
        r"continuation_length=null: leaves 16 of 32 .*; use model\.block_length=16",
    ),
    ("objective=reconstruction context.target_length=100", r"context\.target_length=100: is no whole number of blocks of 8 .*; use \S+=96"),
    ("objective=reconstruction objective.mask_ratio=1", r"objective\.mask_ratio=1\.0: must be in \(0, 1\); use objective\.mask_ratio=0\.3"),
    ("context=window", r"context/attention=window: needs attention that goes through .*; use context/attention=full"),
    ("context=self_extend", r"context/attention=self_extend: needs a model that reads from left to right.*; use context/attention=full"),
    ("objective=causal", r"objective=causal: needs a model that reads from left to right.*; use objective=continuation"),
    ("data.isolate_documents=true", r"data\.isolate_documents=true: needs attention in regions.*; use data\.isolate_documents=false"),
]


@pytest.mark.parametrize(("overrides", "told"), REFUSED, ids=[overrides for overrides, _ in REFUSED])
def test_what_cannot_work_is_refused_before_anything_is_built(overrides: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_job(*composed(*TINY, *MODEL, *overrides.split()))


@pytest.mark.parametrize("objective", ["continuation", "reconstruction"])
def test_a_model_that_cannot_encode_learns_neither(objective: str) -> None:
    with pytest.raises(ConfigError, match=f"objective={objective}: needs a model that encodes and decodes, which model=gpt does not"):
        build_job(*composed(f"objective={objective}"))
