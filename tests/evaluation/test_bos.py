"""Tokenizers that begin every text with BOS: the harness agrees with its own class, and every measured text has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.evaluation.harness_tasks import LENGTH, choices, measured, quiet, rolling, written
from tokenizers import AddedToken
from tokenizers import Tokenizer as TokenizerFile
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM

from elongate.context.attention.full import Full
from elongate.data.sequences import Sequences
from elongate.data.text import Text
from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.data.tokenizer.folder import load_tokenizer
from elongate.data.tokenizer.tokenizer import Tokenizer
from elongate.data.tokens import load_corpus
from elongate.errors import ConfigError
from elongate.evaluation.context_gain import ContextGain
from elongate.evaluation.curve import Curve
from elongate.evaluation.evaluation import Evaluation, Setting
from elongate.evaluation.lm_eval import LmEval
from elongate.evaluation.longppl import LongPPL
from elongate.evaluation.needle import Needle
from elongate.evaluation.perplexity import Perplexity
from elongate.evaluation.retrieval import Retrieval
from elongate.models.pretrained import Pretrained
from elongate.scoring.left_to_right import LeftToRight
from elongate.training.results import data_section

BOS = 257


def begin_with_bos(folder: Path) -> Path:
    """A byte tokenizer with a post-processor that puts <s> before every text, as that of Llama."""
    ByteTokenizer().save(folder)
    tokenizer = TokenizerFile.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken("<s>", normalized=False)])
    pair = "<s> $A <s> $B"
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", pair=pair, special_tokens=[("<s>", BOS)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"bos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def bos_tokenizer(tmp_path: Path) -> Tokenizer:
    return load_tokenizer(begin_with_bos(tmp_path / "tokenizer"))


# -- documents -----------------------------------------------------------------------------------------------------------


def corpus_of(tmp_path: Path, tokenizer: Tokenizer, documents: int = 12) -> Any:
    text = tmp_path / "text"
    text.mkdir(exist_ok=True)
    for i in range(documents):
        (text / f"{i:02d}.txt").write_text("".join(f"line {n} of {i}\n" for n in range(100)))
    return load_corpus(Text(path=str(text), cache=str(tmp_path / "cache")), tokenizer)


@pytest.mark.parametrize("documents", [1, 12])
def test_every_document_begins_with_bos_once(tmp_path: Path, bos_tokenizer: Tokenizer, documents: int) -> None:
    corpus = corpus_of(tmp_path, bos_tokenizer, documents)
    for tokens in (corpus.train, corpus.validation):
        assert (np.flatnonzero(np.asarray(tokens.flat) == BOS) == tokens.bounds[:-1]).all()
    without = corpus_of(tmp_path, bos_tokenizer.with_bos(False), documents)
    assert without.fingerprint != corpus.fingerprint
    assert BOS not in without.train.flat
    words = [[token for token in split.flat if token != BOS] for split in (corpus.train, corpus.validation)]
    assert words == [list(split.flat) for split in (without.train, without.validation)]


def test_bos_that_the_tokenizer_does_not_have_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^data\.add_bos=true: the tokenizer has no bos_token; use data\.add_bos=auto$"):
        ByteTokenizer().with_bos(True)
    with pytest.raises(ConfigError, match="must be auto, true or false"):
        Text(path=".", add_bos="yes")


@pytest.mark.parametrize("add", [True, False])
def test_a_saved_tokenizer_begins_texts_as_the_model_was_trained(tmp_path: Path, bos_tokenizer: Tokenizer, add: bool) -> None:
    from transformers import AutoTokenizer

    bos_tokenizer.with_bos(not add).with_bos(add).save(tmp_path / "saved")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")("ab")["input_ids"]
    ours = load_tokenizer(tmp_path / "saved")
    assert theirs == ours.begin(ours.encode("ab")).tolist() == [*([BOS] if add else []), 97, 98]


# -- measured texts ------------------------------------------------------------------------------------------------------


class Recorded(LeftToRight):
    """Reads every text as usual and keeps its tokens."""

    def __init__(self) -> None:
        self.read: list[np.ndarray] = []

    def losses(self, model: Any, tokens: np.ndarray, original_length: int) -> Any:
        self.read += list(tokens)
        return super().losses(model, tokens, original_length)

    def answers(self, model: Any, prefix: np.ndarray, choices: np.ndarray) -> Any:
        self.read += [np.concatenate([row, choice]) for row, choice in zip(prefix, choices[:, 0], strict=True)]
        return super().answers(model, prefix, choices)


EVALUATIONS: dict[str, tuple[Evaluation, set[int]]] = {
    "curve": (Curve(length=200, num_sequences=20), {200}),  # second and third pieces of documents too
    "needle": (Needle(lengths=[96], num_samples=1, depths=[0.0, 1.0]), {96}),
    "retrieval": (Retrieval(lengths=[600], num_samples=1, depths=[0.5], tasks=["passkey", "key_value"]), set()),
    "perplexity": (Perplexity(lengths=[32, 64], num_sequences=2, form="strided"), {32, 64}),
    "longppl": (LongPPL(length=128, short_length=32, num_sequences=2), {128, 33}),  # 32 and the scored one
    "context_gain": (ContextGain(lengths=[32, 64], num_sequences=2), {32, 64}),
}


@pytest.mark.slow
@pytest.mark.parametrize("word", EVALUATIONS)
def test_every_measured_text_begins_with_bos_and_keeps_its_length(word: str, tmp_path: Path, bos_tokenizer: Tokenizer, model: Any) -> None:
    evaluation, lengths = EVALUATIONS[word]
    model.network.resize_token_embeddings(BOS + 1)
    reading = Recorded()
    held_out = corpus_of(tmp_path, bos_tokenizer).validation
    setting = Setting(held_out, bos_tokenizer, 32, 128, seed=0, reading=reading)
    evaluation.header(setting)
    evaluation.measure(model, setting, quiet)
    assert reading.read
    assert all(text[0] == BOS for text in reading.read)
    assert not lengths or {len(text) for text in reading.read} == lengths
    if word == "retrieval":
        assert max(map(len, reading.read)) == 600


# -- the harness ---------------------------------------------------------------------------------------------------------


def checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    layers = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=264, **layers, max_position_embeddings=LENGTH, bos_token_id=BOS, eos_token_id=256))
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data *= 8.0  # so that it prefers one token to another
    network.save_pretrained(folder)
    return folder


def plain(folder: Path) -> None:
    ByteTokenizer().save(folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the harness's own model gives many warnings
@pytest.mark.parametrize(
    ("files", "add", "theirs", "prefix"),
    [
        (begin_with_bos, "auto", {}, None),
        (begin_with_bos, False, {"add_bos_token": False}, None),
        (plain, "auto", {}, None),
        (plain, "auto", {}, 65),
    ],
    ids=["bos", "bos switched off", "no bos", "own prefix"],
)
def test_the_harness_agrees_with_its_own_class(
    tmp_path: Path, files: Callable[[Path], Any], add: bool | str, theirs: dict[str, Any], prefix: int | None
) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    folder = checkpoint(tmp_path / "checkpoint")
    files(folder)
    tokenizer = load_tokenizer(folder).with_bos(add)
    model = Pretrained(source=str(folder)).build(tokenizer.vocab_size, 0)
    model.attend(Full(), LENGTH, LENGTH)
    held_out = corpus_of(tmp_path, tokenizer).validation
    setting = Setting(held_out, tokenizer, LENGTH, LENGTH, seed=0, reading=LeftToRight())
    tasks = [choices(tmp_path), rolling(tmp_path, 5, 90), written(tmp_path)]
    ours = measured(LmEval(tasks=tasks, limit=4, prefix_token_id=prefix), model, setting)
    own = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1, max_length=LENGTH, prefix_token_id=prefix, **theirs)
    found = simple_evaluate(own, tasks=tasks, task_manager=TaskManager(include_defaults=False), bootstrap_iters=0, limit=4)["results"]
    for name, figures in found.items():
        for figure, value in figures.items():
            if figure.endswith(",none") and "stderr" not in figure and isinstance(value, float):
                assert ours[name][figure.removesuffix(",none")] == pytest.approx(value, rel=1e-4), (name, figure)


def test_a_prefix_outside_the_vocabulary_is_refused(tmp_path: Path, bos_tokenizer: Tokenizer) -> None:
    setting = Setting(corpus_of(tmp_path, bos_tokenizer).validation, bos_tokenizer, 32, 64, seed=0, reading=LeftToRight())
    with pytest.raises(ConfigError, match=r"^evaluation\.lm_eval\.prefix_token_id=258: must be a token of the tokenizer, from 0 to 257"):
        LmEval(tasks=[rolling(tmp_path, 5)], prefix_token_id=258).header(setting)


# -- a run ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("add", [True, False])
def test_the_results_record_whether_texts_begin_with_bos(tmp_path: Path, bos_tokenizer: Tokenizer, add: bool) -> None:
    corpus = corpus_of(tmp_path, bos_tokenizer.with_bos(add))
    job = SimpleNamespace(data=Text(path="."))
    assert data_section(job, corpus, "", []).add_bos is add  # type: ignore[arg-type]


def test_isolated_documents_begin_with_bos_at_position_0(tmp_path: Path, bos_tokenizer: Tokenizer) -> None:
    corpus = corpus_of(tmp_path, bos_tokenizer)
    batch = Sequences(corpus.train, 900, seed=0, isolate_documents=True).batch(0, 4)
    assert batch.positions is not None
    begins = batch.tokens[:, :-1] == BOS
    assert begins.any()
    assert (batch.positions[begins] == 0).all()
    assert (begins[:, 1:] == (batch.positions[:, 1:] == 0)).all()
