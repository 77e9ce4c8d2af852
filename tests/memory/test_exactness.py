"""Every memory plan gives the gradient of unmodified transformers with a dense mask and plain cross-entropy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tests.covering import all_pairs, all_values
from tests.memory.plans import PLANS, QUICK
from tests.networks import VOCAB, network
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from elongate.cli import conf_directory
from elongate.config import build
from elongate.context.attention.full import Full
from elongate.context.attention.window import WindowPattern
from elongate.memory.checkpoint import Checkpoint
from elongate.memory.memory import Memory
from elongate.memory.plain import Plain
from elongate.memory.stream import Stream
from elongate.models.language_model import LanguageModel
from elongate.objectives.objective import Example
from elongate.tuning.lora import Lora
from elongate.tuning.lora_plus import LoraPlus
from elongate.tuning.tuning import Tuning

ROWS, LENGTH, WIDTH = 2, 20, 8
Gradients = dict[str, Tensor]

ANY_DIRECTION = [name for name in PLANS if not name.startswith("stream")]
PATTERNS = ["causal", "packed", "window"]
KINDS = ["llama-1", "llama-2", "llama-8", "qwen3", "gpt2"]


# -- batches and gradients -------------------------------------------------------------------------------------------


@lru_cache
def example(labels: str = "random", packed: bool = False) -> Example:
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCAB, (ROWS, LENGTH + 1), generator=draw)
    scored = torch.rand(ROWS, LENGTH, generator=draw) < 0.6
    # No scored token in the second chunk of 7, and none in several chunks of 1.
    scored[:, 6:15] = False
    if labels == "unequal rows":
        scored = torch.rand(ROWS, LENGTH, generator=draw) < torch.tensor([0.0, 0.5])[:, None]
    elif labels in ("early", "last"):
        scored = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
        scored[1, 4 if labels == "early" else -1] = True
    elif labels == "all":
        scored = torch.ones(ROWS, LENGTH, dtype=torch.bool)
    # Documents of one token and of several chunks, and borders of documents at borders of chunks. The rows differ.
    lengths = [[1, 8, 11], [14, 6]]
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in lengths]) if packed else None
    return Example(tokens[:, :-1], tokens[:, 1:], scored, positions)


def dense_mask(pattern: str, positions: Tensor | None, causal: bool) -> Tensor:
    """Rows × 1 × queries × keys: true where the key is seen."""
    q, k = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)[None]
    seen = (k <= q) if causal else torch.ones(LENGTH, LENGTH, dtype=torch.bool)
    if "window" in pattern:
        seen = seen & ((q - k).abs() < WIDTH)
    seen = seen.expand(ROWS, LENGTH, LENGTH)
    if positions is not None:
        document = (positions == 0).cumsum(1)
        seen = seen & (document[:, :, None] == document[:, None])
    return seen[:, None]


def gradients(model: PreTrainedModel) -> Gradients:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


def assert_same(ours: Gradients, theirs: Gradients, tolerance: float) -> None:
    """The error of each parameter relative to the norm of its gradient is within the tolerance.

    For a gradient that is zero up to rounding, the error is relative to the norm of all gradients.
    """
    assert ours.keys() == theirs.keys()
    whole = torch.stack([g.norm() for g in theirs.values()]).norm()
    for name, gradient in theirs.items():
        # A key bias adds the same number to all scores of a query, so its gradient is zero.
        scale = whole if name.endswith("key.bias") else gradient.norm()
        error = ((ours[name] - gradient).norm() / scale).item()
        assert error <= tolerance, f"{name} is off by {error:.1e}"


def tuned(model: PreTrainedModel, tuning: Tuning | None) -> PreTrainedModel:
    if tuning is None:
        return model
    tuning.apply(LanguageModel(model, "tuned"), seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # initially zero, which would make the gradient of A zero
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.3)
    return model


TRAINED: dict[str, dict[str, Any]] = {
    "full": {"tie_word_embeddings": False},
    "tied": {"tie_word_embeddings": True},
    "lora": {"tie_word_embeddings": False},
}


@lru_cache
def theirs(kind: str, pattern: str, trained: str, labels: str = "random", dtype: torch.dtype = torch.float64) -> tuple[float, Gradients]:
    """Loss and gradients of transformers with its own attention."""
    tuning = Lora(rank=3) if trained == "lora" else None
    reference = tuned(network(kind, "sdpa", dtype, **TRAINED[trained]), tuning)
    batch = example(labels, "packed" in pattern)
    mask = dense_mask(pattern, batch.positions, kind != "bert")
    logits = reference(input_ids=batch.inputs, attention_mask=mask, position_ids=batch.positions).logits
    loss = F.cross_entropy(logits[batch.scored], batch.targets[batch.scored])
    loss.backward()
    return loss.item(), gradients(reference)


def computed(memory: Memory, model: LanguageModel, batch: Example, length: int = LENGTH) -> tuple[float, Gradients]:
    model.network.zero_grad()
    loss = memory.prepare(model, length).backward(model, batch)
    return float(loss), gradients(model.network)


def ours(
    kind: str, pattern: str, trained: str, memory: Memory, labels: str = "random", dtype: torch.dtype = torch.float64
) -> tuple[float, Gradients]:
    tuning = Lora(rank=3) if trained == "lora" else None
    model = LanguageModel(tuned(network(kind, "elongate", dtype, **TRAINED[trained]), tuning), kind)
    model.attention = WindowPattern(WIDTH) if "window" in pattern else Full()
    return computed(memory, model, example(labels, "packed" in pattern))


# -- the gradient of transformers ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "pattern", "trained", "plan"), all_pairs(KINDS, PATTERNS, TRAINED, PLANS))
def test_every_gradient_equals_that_of_transformers(kind: str, pattern: str, trained: str, plan: str) -> None:
    expected_loss, expected = theirs(kind, pattern, trained)
    loss, found = ours(kind, pattern, trained, PLANS[plan])
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert_same(found, expected, 1e-12)


# Frequencies that depend on the length of the text; twice the trained length.
FOLLOWING = {
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "factor": 2.0,
        "original_max_position_embeddings": LENGTH // 2,
        "short_factor": [1.0, 1.0],
        "long_factor": [1.5, 2.5],
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "plan"), all_pairs(FOLLOWING, PLANS))
def test_every_chunk_has_the_frequencies_of_the_whole_text(kind: str, plan: str) -> None:
    fields = {"rope_parameters": FOLLOWING[kind], "max_position_embeddings": LENGTH // 2}
    batch, reference = example(), network("llama-2", **fields)
    logits = reference(input_ids=batch.inputs).logits
    expected = F.cross_entropy(logits[batch.scored], batch.targets[batch.scored])
    expected.backward()
    model = LanguageModel(network("llama-2", "elongate", **fields), "llama-2")
    for length in (3 * LENGTH, 3):
        model.hidden(batch.inputs.repeat(1, 3)[:, :length])
    loss, found = computed(PLANS[plan], model, batch)
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    assert_same(found, gradients(reference), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "trained", "plan"), all_pairs(PATTERNS, TRAINED, ANY_DIRECTION))
def test_every_gradient_of_a_bidirectional_model_equals_that_of_transformers(pattern: str, trained: str, plan: str) -> None:
    expected_loss, expected = theirs("bert", pattern, trained)
    loss, found = ours("bert", pattern, trained, PLANS[plan])
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert_same(found, expected, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "labels", "plan"),
    all_pairs(
        ["llama-2", "gpt2"], ["all", "unequal rows", "early", "last"], ["plain row by row", "checkpoint", "stream 7", "stream longer"]
    ),
)
def test_gradients_agree_for_every_choice_of_scored_tokens(kind: str, labels: str, plan: str) -> None:
    expected_loss, expected = theirs(kind, "packed", "tied", labels)
    loss, found = ours(kind, "packed", "tied", PLANS[plan], labels)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert_same(found, expected, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "labels", "plan"),
    all_pairs(
        ["llama-2", "gpt2"], ["all", "random", "unequal rows"], ["plain", "plain row by row", "checkpoint", "stream 7", "stream longer"]
    ),
)
def test_gradients_agree_with_weighted_targets(kind: str, labels: str, plan: str) -> None:
    """The loss has a share of 0.3. Some targets have weight 0, and weights of targets that are not scored are ignored."""
    weights = torch.rand(ROWS, LENGTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 5
    weights[:, 3:5] = 0
    batch = replace(example(labels, packed=True), weights=weights, share=0.3)
    reference, model = network(kind), LanguageModel(network(kind, "elongate"), kind)
    logits = reference(
        input_ids=batch.inputs, attention_mask=dense_mask("packed", batch.positions, True), position_ids=batch.positions
    ).logits
    each = F.cross_entropy(logits[batch.scored], batch.targets[batch.scored], reduction="none")
    expected = 0.3 * (weights[batch.scored] * each).sum() / weights[batch.scored].sum()
    expected.backward()
    loss, found = computed(PLANS[plan], model, batch)
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    assert_same(found, gradients(reference), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "pattern", "plan"), all_pairs([*KINDS, "bert"], ["causal", "packed window"], ["checkpoint", "stream 7"]))
def test_gradients_agree_in_float32_up_to_rounding(kind: str, pattern: str, plan: str) -> None:
    if kind == "bert" and plan == "stream 7":
        plan = "checkpoint recomputed"
    expected_loss, expected = theirs(kind, pattern, "tied", dtype=torch.float32)
    loss, found = ours(kind, pattern, "tied", PLANS[plan], dtype=torch.float32)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert_same(found, expected, 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["checkpoint", "stream 7"])
@pytest.mark.parametrize("pattern", ["causal", "packed window"])
@pytest.mark.parametrize("kind", ["deepseek", "gpt_neox"])
def test_gradients_agree_for_other_architectures(kind: str, pattern: str, plan: str) -> None:
    """DeepSeek has values narrower than keys. GPT-NeoX has parallel layers, and rotates half of each head."""
    expected_loss, expected = theirs(kind, pattern, "full")
    loss, found = ours(kind, pattern, "full", PLANS[plan])
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert_same(found, expected, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "plan"), all_values(["diffllama", "hrm"], ["checkpoint", "checkpoint recomputed", "stream 7", "stream 7 on disk"])
)
def test_gradients_agree_where_a_module_attends_several_times_in_a_pass(kind: str, plan: str) -> None:
    """DiffLlama computes two attentions with the same module. HRM repeats its layers."""
    expected_loss, expected = theirs(kind, "causal", "full")
    loss, found = ours(kind, "causal", "full", PLANS[plan])
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    # DiffLlama computes lambda in float32, also with float64 weights, and a stream sums its gradient in another order.
    assert_same(found, expected, 1e-6 if kind == "diffllama" else 1e-12)


def test_the_comparison_notices_one_key_more_or_less() -> None:
    for pattern in PATTERNS:
        _, expected = theirs("llama-2", pattern, "full")
        for other in set(PATTERNS) - {pattern}:
            with pytest.raises(AssertionError, match="is off by"):
                assert_same(theirs("llama-2", other, "full")[1], expected, 1e-4)
    narrow = LanguageModel(network("llama-2", "elongate", tie_word_embeddings=False), "llama")
    narrow.attention = WindowPattern(WIDTH - 1)
    with pytest.raises(AssertionError, match="is off by"):
        assert_same(computed(Plain(), narrow, example())[1], theirs("llama-2", "window", "full")[1], 1e-4)


# -- frozen parameters, accumulated gradients ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["checkpoint", "stream 7", "stream 8 recomputed"])
@pytest.mark.parametrize(
    "tuning",
    [
        Lora(targets=["0.self_attn.k_proj"]),
        Lora(targets=["1.self_attn.q_proj"]),
        Lora(targets=["0.mlp.down_proj"]),
        Lora(targets=["1.mlp.up_proj"]),
        LoraPlus(targets=["v_proj"]),
    ],
    ids=lambda tuning: f"{tuning.word} {tuning.targets[0]}",
)
def test_gradients_agree_if_some_projections_need_none(tuning: Lora, plan: str) -> None:
    """Queries, keys or values of a layer may need no gradient."""
    expected = tuned(network("llama-2"), tuning)
    batch = example()
    logits = expected(input_ids=batch.inputs).logits
    F.cross_entropy(logits[batch.scored], batch.targets[batch.scored]).backward()
    model = LanguageModel(tuned(network("llama-2", "elongate"), tuning), "llama")
    assert_same(computed(PLANS[plan], model, batch)[1], gradients(expected), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("plan", QUICK)
def test_gradients_are_added_to_existing_ones(plan: str) -> None:
    model = LanguageModel(network("llama-2", "elongate"), "llama")
    memory = PLANS[plan].prepare(model, LENGTH)
    memory.backward(model, example())
    once = gradients(model.network)
    memory.backward(model, example())
    assert_same(gradients(model.network), {name: 2 * gradient for name, gradient in once.items()}, 1e-12)


# -- dropout ---------------------------------------------------------------------------------------------------------


def dropout_cases() -> list[Any]:
    """Every plan with one of the two models, alternating; other combinations run only in the full grid."""
    cases = itertools.product(["gpt2", "lora"], QUICK)
    return [pytest.param(*case, marks=() if (i + i // len(QUICK)) % 2 == 0 else pytest.mark.grid) for i, case in enumerate(cases)]


def one_row() -> Example:
    """One row, because plans that read several rows together draw other dropout masks than plans that read them separately."""
    return next(example().parts(1))


@contextmanager
def dropped(model: PreTrainedModel) -> Iterator[dict[nn.Dropout, list[Tensor]]]:
    """Records the masks that each dropout of the network draws, in the order of its calls."""
    masks: dict[nn.Dropout, list[Tensor]] = {module: [] for module in model.modules() if isinstance(module, nn.Dropout) and module.p}

    def keep(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if module.training:  # probes run without dropout
            masks[module].append(output.detach() != 0)  # type: ignore[index]  # a dropout

    hooks = [module.register_forward_hook(keep) for module in masks]
    yield masks
    for hook in hooks:
        hook.remove()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "plan"), dropout_cases())
def test_recomputation_uses_the_same_dropout_masks(kind: str, plan: str) -> None:
    """The gradient equals that of transformers with the masks of one pass, so the other pass must have used the same masks."""

    def fresh(implementation: str) -> PreTrainedModel:
        if kind == "gpt2":
            return network("gpt2", implementation, embd_pdrop=0.1, resid_pdrop=0.1)
        return tuned(network("llama-2", implementation), Lora(dropout=0.3))

    batch, model = one_row(), LanguageModel(fresh("elongate").train(), "dropping")
    prepared = PLANS[plan].prepare(model, LENGTH)
    torch.manual_seed(5)
    with dropped(model.network) as masks:
        loss = prepared.backward(model, batch)
    found, state = gradients(model.network), torch.get_rng_state()

    reference = fresh("sdpa").train()
    # The second pass of a stream runs from the last chunk to the first. Its first pass skips most of the last layer.
    turn = -1 if plan.startswith("stream") else 1
    seen = [torch.cat(_once(drawn[::turn]), dim=1) for drawn in masks.values()]
    assert all(0 < mask.double().mean() < 1 for mask in seen)
    for module, mask in zip((m for m in reference.modules() if isinstance(m, nn.Dropout) and m.p), seen, strict=True):
        module.forward = lambda x, mask=mask, p=module.p: x * mask / (1 - p)
    logits = reference(input_ids=batch.inputs).logits
    expected = F.cross_entropy(logits[batch.scored], batch.targets[batch.scored])
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    assert_same(found, gradients(reference), 1e-12)

    # The same seed gives the same masks and leaves the generator in the same state.
    model.network.zero_grad()
    torch.manual_seed(5)
    assert prepared.backward(model, batch) == loss
    assert_same(gradients(model.network), found, 1e-12)
    assert torch.equal(torch.get_rng_state(), state)
    # The next step draws other masks.
    with dropped(model.network) as later:
        prepared.backward(model, batch)
    for module, drawn in masks.items():
        assert not any(torch.equal(before, after) for before in drawn for after in later[module])


def _once(drawn: list[Tensor]) -> list[Tensor]:
    """The first masks that together cover the tokens once."""
    taken: list[Tensor] = []
    for mask in drawn:
        if sum(m.shape[1] for m in taken) < LENGTH:
            taken.append(mask)
    assert sum(m.shape[1] for m in taken) == LENGTH
    return taken


@pytest.mark.parametrize("plan", ["plain", "checkpoint", "stream whole"])
def test_plans_that_read_the_whole_sequence_draw_the_same_masks_as_transformers(plan: str) -> None:
    dropout = {"embd_pdrop": 0.1, "resid_pdrop": 0.1}
    batch, reference = one_row(), network("gpt2", **dropout).train()
    torch.manual_seed(5)
    logits = reference(input_ids=batch.inputs).logits
    F.cross_entropy(logits[batch.scored], batch.targets[batch.scored]).backward()
    model = LanguageModel(network("gpt2", "elongate", **dropout).train(), "gpt2")
    memory = PLANS[plan].prepare(model, LENGTH)
    torch.manual_seed(5)
    memory.backward(model, batch)
    assert_same(gradients(model.network), gradients(reference), 1e-12)


# -- training --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_twenty_steps_of_training_are_the_same() -> None:
    draw = torch.Generator().manual_seed(3)
    text = torch.randint(VOCAB, (ROWS * (LENGTH + 1) * 5,), generator=draw).view(5, ROWS, LENGTH + 1)
    scored = torch.rand(5, ROWS, LENGTH, generator=draw) < 0.7

    def losses(memory: Memory) -> list[float]:
        model = LanguageModel(network("llama-2", "elongate", torch.float32), "llama")
        prepared = memory.prepare(model, LENGTH)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, eps=1e-6)
        found = []
        for step in range(20):
            batch = Example(text[step % 5, :, :-1], text[step % 5, :, 1:], scored[step % 5], None)
            optimizer.zero_grad()
            found.append(float(prepared.backward(model, batch)))
            optimizer.step()
        return found

    expected = losses(Plain())
    assert expected[-1] < 0.8 * expected[0]
    for memory in (Stream(chunk_length=12), Checkpoint(mlp_chunk_length=8)):
        assert losses(memory) == pytest.approx(expected, rel=1e-6)


# -- truncated gradients ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("chunk_length", [3, 14])
@pytest.mark.parametrize("kind", ["llama-2", "gpt2", "qwen3"])
def test_a_detached_stream_equals_transformers_with_a_detached_cache(kind: str, chunk_length: int) -> None:
    batch, reference, cache = example(), network(kind), DynamicCache()
    total = 0.0
    for start in range(0, LENGTH, chunk_length):
        at = slice(start, start + chunk_length)
        logits = reference(input_ids=batch.inputs[:, at], past_key_values=cache, use_cache=True).logits
        scored = batch.scored[:, at]
        loss = F.cross_entropy(logits[scored], batch.targets[:, at][scored], reduction="sum") / batch.scored.sum()
        loss.backward()
        total += loss.item()
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
    expected = gradients(reference)

    memory = Stream(chunk_length=chunk_length, detach=True)
    loss, found = computed(memory, LanguageModel(network(kind, "elongate"), kind), batch)
    assert loss == pytest.approx(total, rel=1e-12)
    assert_same(found, expected, 1e-12)
    exact_loss, exact = computed(Stream(chunk_length=chunk_length), LanguageModel(network(kind, "elongate"), kind), batch)
    assert loss == pytest.approx(exact_loss, rel=1e-12)
    with pytest.raises(AssertionError, match="is off by"):
        assert_same(found, exact, 1e-2)
    assert not memory.is_exact
    assert Stream().is_exact


# -- bfloat16 --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "pattern", "plan"),
    all_pairs(
        ["llama-2", "qwen3", "gpt2"],
        ["causal", "packed window"],
        ["checkpoint", "checkpoint recomputed", "stream 7", "stream 8 recomputed"],
    ),
)
def test_gradients_agree_in_bfloat16_to_its_precision(kind: str, pattern: str, plan: str) -> None:
    def run(memory: Memory, precision: str) -> tuple[float, Gradients]:
        model = LanguageModel(network(kind, "elongate", torch.float32), kind)
        model.precision, model.attention = precision, WindowPattern(WIDTH) if "window" in pattern else Full()
        return computed(memory, model, example(packed="packed" in pattern))

    (exact_loss, exact), (plain_loss, plain) = run(Plain(), "fp32"), run(Plain(), "bf16")
    loss, found = run(PLANS[plan], "bf16")
    assert loss == pytest.approx(plain_loss, rel=2e-3)
    assert loss == pytest.approx(exact_loss, rel=5e-3)
    assert all(gradient.isfinite().all() and gradient.dtype == torch.float32 for gradient in found.values())
    assert_same(found, plain, 0.15)
    # The distance to the exact gradient is that of bfloat16 itself.
    assert 1e-4 < distance(found, exact) < 1.3 * distance(plain, exact)


def distance(ours: Gradients, theirs: Gradients) -> float:
    squares = sum(((ours[name] - gradient).norm() ** 2).item() for name, gradient in theirs.items())
    return (squares / sum((gradient.norm() ** 2).item() for gradient in theirs.values())) ** 0.5


# -- with every attention --------------------------------------------------------------------------------------------

WORDS = sorted(path.stem for path in (conf_directory() / "context/attention").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("documents", [pytest.param("one", marks=pytest.mark.grid), "alike", "unlike"])
@pytest.mark.parametrize("word", WORDS)
def test_all_plans_agree_for_every_attention(word: str, documents: str) -> None:
    """Rows with equal document borders are computed together, others row by row."""
    batch = example(packed=documents == "unlike")
    if documents == "alike":
        positions = torch.cat([torch.arange(n) for n in (5, 1, 14)]).expand(ROWS, LENGTH)
        batch = Example(batch.inputs, batch.targets, batch.scored, positions)
    chosen = build(OmegaConf.load(conf_directory() / f"context/attention/{word}.yaml"), "context.attention")
    trained = 16 if word == "string" else 12  # string reaches 20 tokens from 16 on
    chosen.check(LENGTH, trained)
    # Half of each head of GPT-NeoX is not rotated.
    kind = "gpt_neox" if chosen.rotates and documents == "unlike" else "llama-2"

    def run(memory: Memory) -> tuple[float, Gradients]:
        model = LanguageModel(network(kind, "elongate"), kind)
        model.attention = chosen.for_length(LENGTH, trained)
        return computed(memory, model, batch)

    expected_loss, expected = run(Plain())
    for plan in ("checkpoint recomputed", "stream 8 recomputed" if documents == "alike" else "stream 7"):
        loss, found = run(PLANS[plan])
        assert loss == pytest.approx(expected_loss, rel=1e-12)
        assert_same(found, expected, 1e-12)
