"""Mixtures: shares are met, the order is a pure function of the index, and what cannot work is refused in one line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import TINY, TINY_MODEL, composed
from tests.data.test_sequences import numbered
from tests.data.test_tokens import TEXTS, Fixed, texts_of

from elongate.data.arrangement import arrange
from elongate.data.mixed import MixedSequences
from elongate.data.mixture import Mixture
from elongate.data.packing import PackedSequences
from elongate.data.sequences import Sequences
from elongate.data.source import held_out_documents
from elongate.data.text import Text
from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.data.tokens import load_corpus
from elongate.errors import ConfigError
from elongate.training.run import run
from elongate.training.run_directory import RunDirectory

SHARES = {"long": 0.4, "short": 0.25, "code": 0.35}


def mixed(seed: int = 3) -> MixedSequences:
    parts = {"long": Sequences(numbered(9000), 16, seed, False), "short": PackedSequences(numbered(*[5] * 400), 16, seed)}
    return MixedSequences(parts | {"code": Sequences(numbered(7000), 16, seed, False)}, SHARES, seed)


def test_shares_of_ten_thousand_sequences_are_met():
    sources = np.array(mixed().sources(0, 10_000))
    for name, share in SHARES.items():
        assert abs((sources == name).mean() - share) < 0.005
        # Not only on the whole: the largest gap without the source is short.
        assert np.diff(np.flatnonzero(sources == name)).max() <= 2 / share + 1
    usage = mixed().usage(10_000)
    assert {name: one.sequences for name, one in usage.items()} == {name: int((sources == name).sum()) for name in SHARES}


def test_each_source_is_read_in_its_own_order_without_gaps():
    sequences, seed = mixed(), 3
    names = sequences.sources(0, 3000)
    read = sequences.batch(0, 3000)
    long = Sequences(numbered(9000), 16, seed, False).batch(0, names.count("long"))
    assert (read.tokens[np.array(names) == "long"] == long.tokens).all()
    packed = np.array(names) == "short"
    expected = PackedSequences(numbered(*[5] * 400), 16, seed).batch(0, int(packed.sum()))
    for field in ("tokens", "positions", "starts", "scored"):
        assert (getattr(read, field)[packed] == getattr(expected, field)).all()
    # The others are one document each, of which every token counts.
    assert (read.positions[~packed] == np.arange(16)).all()
    assert read.scored[~packed].all()
    assert not read.starts[~packed].any()


def test_the_order_after_resuming_is_the_same(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("elongate.data.mixed._BLOCK", 64)
    sequences = mixed()
    whole = sequences.batch(0, 1000)
    for first, count in [(700, 300), (63, 2), (64, 1), (512, 130)]:
        again = mixed().batch(first, count)
        assert (again.tokens == whole.tokens[first : first + count]).all()
    monkeypatch.setattr("elongate.data.mixed._BLOCK", 1 << 16)
    assert mixed().sources(0, 1000) == sequences.sources(0, 1000)
    assert mixed(4).sources(0, 100) != sequences.sources(0, 100)


def sources(tmp_path: Path, **settings) -> dict[str, Fixed]:
    other = {f"{name}!": text.upper() for name, text in TEXTS.items()}
    return {"one": Fixed(texts=TEXTS), "two": Fixed(texts=other, **settings)}


def test_documents_of_all_sources_keep_their_splits_and_limits(tmp_path: Path):
    parts = sources(tmp_path, min_length=100, max_length=300, isolate_documents=True)
    mixture = Mixture(sources=parts, shares={"one": 1, "two": 3}, cache=str(tmp_path), validation_ratio=0.3)
    corpus = load_corpus(mixture, ByteTokenizer())
    held_out = held_out_documents(list(parts["two"].texts), 0.3)
    fitting = [
        text for text, out in zip(parts["two"].texts.values(), held_out, strict=True) if not out and 100 <= len(text.encode()) + 1 <= 300
    ]
    assert texts_of(corpus.train.part("two")) == fitting
    alone = load_corpus(Fixed(texts=TEXTS, cache=str(tmp_path), validation_ratio=0.3), ByteTokenizer())
    assert texts_of(corpus.train.part("one")) == texts_of(alone.train)
    # What is measured does not depend on the limits.
    assert len(texts_of(corpus.validation.part("two"))) == held_out.sum()
    assert texts_of(corpus.train) == texts_of(corpus.train.part("one")) + fitting
    arranged = arrange(mixture, corpus.train, 16, 0)
    assert {name: one.sequences for name, one in arranged.usage(1000).items()} == {
        "one": pytest.approx(250, abs=3),
        "two": pytest.approx(750, abs=3),
    }
    # A tokenizer is trained on none of them.
    hidden = {text for text, out in zip(parts["two"].texts.values(), held_out, strict=True) if out}
    assert not hidden & set(mixture.train_texts())


def test_what_is_wrong_with_a_source_is_reported_under_its_key(tmp_path: Path):
    mixture = Mixture(sources={"mine": Text(path=str(tmp_path / "absent"))}, shares={"mine": 1})
    for read in (mixture.fingerprint, lambda: list(mixture.documents()), lambda: list(mixture.train_texts())):
        with pytest.raises(ConfigError, match=r"^data\.sources\.mine\.path=.*: no such file"):
            read()


def test_a_source_without_share_is_measured_and_not_read(tmp_path: Path):
    mixture = Mixture(sources=sources(tmp_path), shares={"one": 2, "two": 0}, cache=str(tmp_path))
    corpus = load_corpus(mixture, ByteTokenizer())
    assert arrange(mixture, corpus.train, 16, 0).usage(10).keys() == {"one"}
    assert len(corpus.validation.part("two")) > 0


BAD = [
    ({"shares": {"one": -1, "two": 1}}, r"data\.shares\.one=-1: must be at least 0; use data\.shares\.one=0\.5"),
    ({"shares": {"one": 0, "two": 0}}, r"shares=\[0,0\]: must not all be 0; use shares='\{one:1,two:1\}'"),
    ({"shares": {"one": 1}}, r"shares=one: must name the sources: one, two; use shares='\{one:1,two:1\}'"),
    ({"packing": "best_fit"}, r"packing=best_fit: is a setting of each source; use data\.sources\.<name>\.packing"),
    ({"max_repeats": 0}, r"max_repeats=0: must be at least 1; use max_repeats=4"),
]


@pytest.mark.parametrize(("settings", "line"), BAD, ids=[next(iter(settings)) + str(i) for i, (settings, _) in enumerate(BAD)])
def test_a_mixture_that_cannot_work_is_refused(settings, line, tmp_path: Path):
    with pytest.raises(ConfigError, match=f"^{line}$"):
        Mixture(**({"sources": sources(tmp_path), "shares": {"one": 1, "two": 1}} | settings))


def test_one_setting_for_all_sources_is_refused_at_a_source(tmp_path: Path):
    line = r"^data\.sources\.two\.cache=here: is one setting for all sources; use data\.cache$"
    with pytest.raises(ConfigError, match=line):
        Mixture(sources=sources(tmp_path, cache="here"), shares={"one": 1, "two": 1})
    inner = Mixture(sources=sources(tmp_path), shares={"one": 1, "two": 1})
    with pytest.raises(ConfigError, match=r"^data\.sources\.inner=mixture: is a mixture itself; name its sources here$"):
        Mixture(sources={"inner": inner}, shares={"inner": 1})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    for name, count in (("many", 12), ("few", 3)):
        (folder / name).mkdir()
        for i in range(count):
            (folder / name / f"{i}.txt").write_text("".join(f"{name} {n} of {i}: {n * i % 97}\n" for n in range(30 * (i + 1))))
    return folder


def words(folder: Path, *more: str) -> list[str]:
    named = [f"+data@data.sources.{name}=text data.sources.{name}.path={folder / name}".split() for name in ("many", "few")]
    return [*TINY, *TINY_MODEL, "data=mixture", *named[0], *named[1], f"data.cache={folder}/cache", "evaluation=[]", *more]


def test_a_run_reports_what_each_source_contributed(folder: Path, monkeypatch: pytest.MonkeyPatch):
    from elongate.build import build_job

    monkeypatch.chdir(folder)
    monkeypatch.setattr("elongate.training.run.write_report", lambda *arguments: {"images": {}, "tables": {}})
    asked = words(folder, "data.shares={many:3,few:1}", "data.sources.few.packing=best_fit", "data.max_repeats=9")
    job = build_job(*composed(*asked, "context.curriculum.base.steps=2", "steps=8"))
    directory = RunDirectory(folder / "run")
    directory.path.mkdir()
    sources = run(job, directory)["data"]["sources"]
    assert sources.keys() == {"many", "few"}
    assert sum(one["sequences"] for one in sources.values()) == 16
    assert sources["few"]["tokens"] == 128 * sources["few"]["sequences"]
    assert abs(sources["few"]["sequences"] - 4) <= 1
    corpus = load_corpus(job.data, ByteTokenizer())
    packed = PackedSequences(corpus.train.part("few"), 128, 0)
    assert sources["few"]["epochs"] == sources["few"]["sequences"] / len(packed)
    assert sources["few"]["cuts"] > 0
    assert "cuts" not in sources["many"]


def test_a_source_that_is_too_small_is_refused_before_training(folder: Path, monkeypatch: pytest.MonkeyPatch):
    from elongate.build import build_job
    from elongate.training.run import prepare

    monkeypatch.chdir(folder)
    job = build_job(*composed(*words(folder, "data.shares={many:0.1,few:0.9}", "context/curriculum=fixed"), "steps=400"))
    available = len(load_corpus(job.data, ByteTokenizer()).train.part("few"))
    times = 400 * 256 * 0.9 / available
    rule = rf"data\.shares\.few=0\.9: its share of 102,400 tokens reads the source of {available:,} tokens {times:.3g} times; use a share"
    with pytest.raises(ConfigError, match=rule):
        prepare(job)
    tiny = Text(path=str(folder / "few"))
    mixture = Mixture(sources={"few": tiny}, shares={"few": 1})
    line = "data.sources.few=text: a sequence needs 129 tokens, and this source has 100 for training; use a shorter length"
    with pytest.raises(ConfigError, match=re.escape(line)):
        mixture.check_amount({"few": 100}, 129, 0)


def test_limits_that_leave_nothing_are_refused(tmp_path: Path):
    longest = max(len(text.encode()) + 1 for text in TEXTS.values())
    source = Fixed(texts=TEXTS, cache=str(tmp_path), min_length=10_000)
    with pytest.raises(ConfigError, match=rf"min_length=10000: leaves no training document: they have \d+ to {longest} tokens; use"):
        load_corpus(source, ByteTokenizer())
    with pytest.raises(ConfigError, match=r"max_length=5: must be at least 1 and not below min_length=6; use max_length=null"):
        Fixed(texts=TEXTS, min_length=6, max_length=5)
    with pytest.raises(ConfigError, match=r"packing=tight: must be one of stream, best_fit; use packing=stream"):
        Fixed(texts=TEXTS, packing="tight")
