"""Written texts compared with transformers' own, with whole texts read for every token, and with the memory they may take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.commands import Command
from tests.models.small import attending
from tests.networks import VOCAB, network
from torch.testing import assert_close
from transformers import AutoTokenizer, MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from elongate.context.attention.attention import Attention
from elongate.context.attention.dual_chunk import DualChunk
from elongate.context.attention.full import Full
from elongate.context.attention.global_local import GlobalLocal
from elongate.context.attention.kernel.kv_cache import KeyValueCache
from elongate.context.attention.rerope import ReRope
from elongate.context.attention.self_extend import SelfExtend
from elongate.context.attention.shifted import Shifted
from elongate.context.attention.sinks import Sinks
from elongate.context.attention.string import String
from elongate.context.attention.window import Window
from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.generation.sampling import Sampling
from elongate.generation.writing import Written, next_tokens
from elongate.models.language_model import LanguageModel
from elongate.scoring import next_logits as reading

GREEDY = Sampling(temperature=0)
ATTENTIONS = [
    Full(),
    Window(window_length=7),
    Sinks(window_length=6, num_sinks=3),
    GlobalLocal(window_length=5, num_global=2),
    SelfExtend(window_length=6),
    ReRope(window_length=6),
    DualChunk(),
    String(shift_length=10),
    Shifted(),
]


def prompts(seed: int, rows: int, length: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(VOCAB, size=(rows, length)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama-2", "gpt2", "qwen3"])
@pytest.mark.parametrize(("seed", "rows"), [(0, 1), (1, 4), (2, 4)])
def test_greedy_texts_are_what_transformers_generates(kind: str, seed: int, rows: int) -> None:
    reach = {"n_positions" if kind == "gpt2" else "max_position_embeddings": 256}
    model = LanguageModel(network(kind, "elongate", **reach).eval(), kind)
    ids = prompts(seed, rows, 20)
    written = torch.stack(list(next_tokens(model, ids, 200, GREEDY)), dim=1)
    plain = network(kind, **reach).eval()
    expected = plain.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=200, do_sample=False, pad_token_id=0)
    np.testing.assert_array_equal(written, expected[:, 20:])


@pytest.mark.parametrize("attention", ATTENTIONS, ids=lambda attention: attention.word)
def test_every_token_follows_from_the_whole_text(attention: Attention, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK", 9)  # the prompt is read in three chunks
    model = attending()
    model.network.eval()
    model.attend(attention, 32, 64)
    text = prompts(0, 2, 25)
    reader = reading.next_logits(model, 64)
    for _ in range(39):
        with torch.no_grad():
            found = reader(text)
            whole = torch.cat([text, text.new_zeros(2, 64 - text.shape[1])], dim=1)
            states = model.hidden(whole)[:, text.shape[1] - 1]
            assert_close(found, model.logits(states), rtol=0, atol=1e-9)
        text = torch.cat([text, found.argmax(-1, keepdim=True)], dim=1)


@pytest.mark.parametrize(("attention", "seen"), [(Window(window_length=16), 16), (Sinks(window_length=12, num_sinks=4), 16)])
def test_the_cache_of_a_window_does_not_grow(attention: Any, seen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stores: list[KeyValueCache] = []
    of = KeyValueCache.of
    monkeypatch.setattr(KeyValueCache, "of", lambda cache, *tensors: stores.append(cache) or of(cache, *tensors))
    model = attending(torch.float32)
    model.network.eval()
    model.attend(attention, 32, 4096)
    sizes = []
    for number, _ in enumerate(next_tokens(model, prompts(0, 1, 8), 3000, GREEDY)):
        if number % 100 == 99:
            sizes.append(stores[-1].num_bytes)
    assert len(set(sizes)) == 1
    per_token = 2 * sum(kept.keys[:, :, 0].nbytes for kept in stores[-1].kept.values())
    assert sizes[0] <= 2 * seen * per_token


def test_sampled_tokens_have_the_distribution_of_the_processors() -> None:
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(0)) * 2
    scores = logits
    for warp in (TemperatureLogitsWarper(0.8), TopKLogitsWarper(8), TopPLogitsWarper(0.9), MinPLogitsWarper(0.05)):
        scores = warp(torch.zeros(1, 0), scores)
    expected = scores.softmax(-1)[0].numpy()
    sampling = Sampling(temperature=0.8, top_k=8, top_p=0.9, min_p=0.05, seed=3)
    drawn = np.bincount([int(sampling.choose(logits, place)) for place in range(4000)], minlength=12) / 4000
    assert (drawn[expected == 0] == 0).all()
    assert np.abs(drawn - expected).max() < 5 * 0.5 / 4000**0.5


def test_characters_and_stop_strings_are_handed_out_when_they_are_certain() -> None:
    written, stops = Written(), ["END"]
    shown = []
    for text in ("a\ufffd", "aé", "aéE", "aéEN", "aéENx"):
        written.text = text
        shown.append(written.news(stops))
    assert shown == ["a", "é", "", "", "ENx"]


def test_an_own_tokenizer_is_exported_with_a_chat_template(tmp_path: Path) -> None:
    ByteTokenizer().save(tmp_path)
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}, {"role": "user", "content": "Why"}]
    found = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert found == "user: Hi\nassistant: Yes\nuser: Why\nassistant:"


def test_the_command_writes_streams_and_resumes(here: Command, tmp_path: Path) -> None:
    model = attending(torch.float32, original_length=32)
    model.save(tmp_path / "model")
    ByteTokenizer().save(tmp_path / "model")
    words = ["checkpoint=model", "max_tokens=12", "context/attention=sinks", "context.attention.window_length=8"]
    first = here("generate", *words, "prompt=import", torch=True)
    assert (first.code, first.err) == (0, "")
    assert (
        here("generate", *words, "prompt=import", torch=True).out
        == first.out
        != here("generate", *words, "prompt=import", "sampling.seed=1", torch=True).out
    )
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("import", "def f", "class")))
    assert here("generate", *words, "file=p.jsonl", torch=True).code == 0
    output = tmp_path / "p.written.jsonl"
    whole = output.read_text()
    assert json.loads(whole.splitlines()[0])["text"] + "\n" == first.out
    output.write_text(whole[: len(whole) // 2])  # killed while a line was written
    assert here("generate", *words, "file=p.jsonl", torch=True).code == 0
    assert output.read_text() == whole
    refused = here("generate", *words, "file=p.jsonl", "sampling.seed=1", torch=True).reported(2)
    assert (
        refused == "output=p.written.jsonl: contains texts of other prompts, or of other settings; use output=<another file>, or remove it"
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "prompt=null: a text to continue must be given; add prompt=<text>, or file=<jsonl file>"),
        (["prompt=a", "sampling.top_p=0"], "sampling.top_p=0.0: must be in (0, 1]; use sampling.top_p=1.0"),
        (["prompt=a", "max_tokens=0"], "max_tokens=0: must be at least 1; use max_tokens=256"),
        (["prompt=a", "output=b"], "output=b: is only written for the prompts of a file; leave output out, or give file=<jsonl file>"),
    ],
)
def test_wrong_settings_are_one_line(words: list[str], line: str, here: Command) -> None:
    assert here("generate", "checkpoint=model", *words).reported(2) == line
