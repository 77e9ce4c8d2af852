"""Foreign files and foreign code: every fault is one line that names file, line or key, and our own bugs stay tracebacks."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from omegaconf import OmegaConf
from tokenizers import AddedToken

from elongate.build import build_job
from elongate.config import build
from elongate.data.hub import Hub
from elongate.data.jsonl import Jsonl
from elongate.data.source import Source
from elongate.data.tokenizer.byte import ByteTokenizer
from elongate.data.tokenizer.folder import load_tokenizer
from elongate.data.tokenizer.pretrained import Pretrained as PretrainedTokenizer
from elongate.errors import ConfigError, RunError
from elongate.foreign import foreign
from elongate.models.compatibility import check_network
from elongate.models.pretrained import Pretrained
from tests.conftest import composed

# -- the mechanism ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: json.loads("{"), "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (lambda: json.loads("[" * 10**5), "RecursionError: maximum recursion depth exceeded"),
        (lambda: {}["a"], "KeyError: 'a'"),
        (lambda: next(iter([])), "StopIteration"),
        (lambda: torch.zeros(2) @ torch.zeros(3), "inconsistent tensor size"),
    ],
    ids=["json", "recursion", "key", "stop", "compiled"],
)
def test_a_fault_of_foreign_code_is_one_line(call: Callable[[], Any], line: str) -> None:
    with pytest.raises(RunError) as refused, foreign(RunError):
        call()
    assert str(refused.value).startswith(line)


def test_a_fault_of_our_own_code_passes() -> None:
    """`validation_ratio` is compared with numbers in a line of data/source.py."""
    with pytest.raises(TypeError), foreign(RunError):
        Source.__post_init__(_Odd())  # type: ignore[arg-type]


class _Odd:
    validation_ratio = "a word"


def test_an_error_for_the_user_and_an_interrupt_pass() -> None:
    with pytest.raises(ConfigError, match="a=1: rule"), foreign(RunError):
        raise ConfigError("a", 1, "rule", "remedy")
    with pytest.raises(KeyboardInterrupt), foreign(RunError):
        raise KeyboardInterrupt


# -- data ------------------------------------------------------------------------------------------------------------------

ROW = b'{"text": "abc"}\n'
LINES = {
    "5000 digits": (b'{"text": "x", "id": ' + b"1" * 5000 + b"}\n", "Exceeds the limit"),
    "100000 brackets": (b'{"text": "x", "m": ' + b"[" * 10**5 + b"]" * 10**5 + b"}\n", "RecursionError: "),
}


@pytest.mark.parametrize("what", LINES)
def test_a_line_that_no_parser_reads_is_refused(what: str, tmp_path: Path) -> None:
    line, reason = LINES[what]
    (tmp_path / "a.jsonl").write_bytes(ROW + line)
    with pytest.raises(ConfigError) as refused:
        list(Jsonl(path=str(tmp_path)).documents())
    assert str(refused.value).startswith(f"path={tmp_path}/a.jsonl:2: this line cannot be read ({reason}")


@pytest.mark.parametrize(
    ("record", "remedy"),
    [
        ({"id": 7, "body": "x", "messages": [{"role": "user", "content": "x"}]}, "use field=body"),
        ({"messages": [{"role": "user", "content": "x"}]}, "messages contains a chat: write each as one text"),
        ({"id": 7}, 'write records like {"text": "…"}'),
        ({"text": None, "prompt": "x"}, "use field=prompt"),
    ],
    ids=["another text", "chat", "no text", "null"],
)
def test_a_record_without_the_field_names_one_that_works(record: dict[str, Any], remedy: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    with pytest.raises(ConfigError) as refused:
        list(Jsonl(path=str(tmp_path)).documents())
    assert remedy in str(refused.value)


HALF = gzip.compress(ROW * 5000)[:-20]
HUB = {
    "truncated gz": ({"a.jsonl.gz": HALF}, "a.jsonl.gz: cannot be loaded (Compressed file ended before the end-of-stream marker"),
    "one of two": ({"a.jsonl": ROW, "b.jsonl.gz": HALF}, "b.jsonl.gz: cannot be loaded (Compressed file ended before"),
    "empty": ({"a.jsonl": b""}, ": contains no file with text; give path another folder"),
    "deep": ({"a.jsonl": ROW + LINES["100000 brackets"][0]}, "a.jsonl:2: this line is nested too deep; fix or remove it"),
    "cut": ({"a.jsonl": ROW + b'{"text": "a'}, "a.jsonl: cannot be loaded (JSON parse error: "),
    "parquet": ({"a.parquet": b"PAR1xxxx"}, "a.parquet: cannot be loaded (Parquet magic bytes not found in footer"),
    "latin1": ({"a.csv": b"text\n\xff\xfe\n"}, "a.csv: cannot be loaded (UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff"),
}


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("what", HUB)
def test_a_file_that_datasets_cannot_read_is_named(what: str, streaming: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files, line = HUB[what]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        list(Hub(path=str(tmp_path), streaming=streaming, num_documents=9**9).documents())
    assert line in str(refused.value)
    assert "rror" not in capfd.readouterr().err


# -- checkpoints -----------------------------------------------------------------------------------------------------------

SIZES = {"vocab_size": 258, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, max_position_embeddings=64)).save_pretrained(folder)
    ByteTokenizer().with_mask().save(folder)
    return folder


def changed(llama: Path, folder: Path, **config: Any) -> Path:
    """A copy of the checkpoint; its config.json has these values too, and `...` removes one."""
    folder.mkdir(exist_ok=True)
    for file in llama.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    found = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps({key: value for key, value in found.items() if value is not ...}))
    return folder


CONFIG: dict[str, tuple[dict[str, Any], str]] = {
    "a length as text": ({"max_position_embeddings": "64"}, 'in its config.json max_position_embeddings is "64", not a whole number'),
    "a length of null": ({"max_position_embeddings": None}, "in its config.json max_position_embeddings is null, not a whole number"),
    "layers as text": ({"num_hidden_layers": "1"}, "num_hidden_layers' expected int, got str"),
    "theta as text": ({"rope_parameters": {"rope_type": "default", "rope_theta": "1e6"}}, 'rope_theta is "1e6", not a number'),
    "theta as text, as in transformers 4": ({"rope_parameters": ..., "rope_theta": "1e6"}, 'rope_theta is "1e6", not a number'),
    "an unknown activation": ({"hidden_act": "reluu"}, "reluu"),
    "no heads": ({"num_attention_heads": 0}, "cannot be opened: ZeroDivisionError: "),
}


@pytest.mark.parametrize("what", CONFIG)
def test_a_wrong_value_of_a_configuration_is_named(what: str, llama: Path, tmp_path: Path) -> None:
    values, line = CONFIG[what]
    model = Pretrained(source=str(changed(llama, tmp_path / "changed", **values)))
    with pytest.raises(ConfigError) as refused:  # noqa: PT012  # some are found in the file, others by transformers
        assert model.original_length
        model.build(258, seed=0)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_weight_that_is_not_finite_is_named(tmp_path: Path) -> None:
    network = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, max_position_embeddings=64))
    network.model.layers[0].mlp.up_proj.weight.data[3, 3] = torch.nan
    network.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"is damaged: model\.layers\.0\.mlp\.up_proj\.weight contains numbers that are not finite"):
        Pretrained(source=str(tmp_path)).build(258, seed=0)


def test_an_architecture_that_cannot_be_run_is_refused_in_one_line(tmp_path: Path) -> None:
    shape = {"vocab_size": 258, "hidden_size": 32, "feed_forward_size": 32, "num_attention_heads": 2, "attention_head_size": 16}
    # Its positions end after four tokens.
    positions = {"axial_pos_shape": [2, 2], "axial_pos_embds_dim": [16, 16], "max_position_embeddings": 64}
    config = transformers.ReformerConfig(**shape, **positions, attn_layers=["local"], is_decoder=True)
    transformers.ReformerModelWithLMHead(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"is a reformer: Make sure that config\.axial_pos_shape"):
        check_network(Pretrained(source=str(tmp_path)).build(258, seed=0))


# -- tokenizers ------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_without_a_tokenizer_names_the_key_that_helps(llama: Path, tmp_path: Path) -> None:
    folder = changed(llama, tmp_path / "bare")
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(ConfigError, match=r"contains no tokenizer files; .* tokenizer\.source=<hub id or folder>"):
        PretrainedTokenizer(source=str(folder)).fit(Jsonl(path="unused"))


TOKENIZER: dict[str, tuple[str, Any, str]] = {
    "bos": ("tokenizer_config.json", {"bos_token": 5}, "tokenizer_config.json: bos_token is neither a text nor"),
    "decoder": ("tokenizer_config.json", {"added_tokens_decoder": {"x": {}}}, "tokenizer_config.json: added_tokens_decoder is not"),
    "list": ("tokenizer_config.json", [1], "tokenizer_config.json: it contains no object"),
    "added": ("added_tokens.json", {"<a>": "7"}, "added_tokens.json: the id of <a> is not a number"),
    "tokens": ("tokenizer.json", {"added_tokens": [{"id": 5}]}, "tokenizer.json: added_tokens is not a list of tokens"),
    "model": ("tokenizer.json", {"model": {"type": "BPE"}}, "its tokenizer files are broken"),
}


@pytest.mark.parametrize("what", TOKENIZER)
def test_a_wrong_value_of_a_tokenizer_is_named(what: str, llama: Path, tmp_path: Path) -> None:
    name, values, line = TOKENIZER[what]
    file = changed(llama, tmp_path / "changed") / name
    found = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(found | values if isinstance(values, dict) else values))
    with pytest.raises(ConfigError) as refused:
        load_tokenizer(file.parent)
    assert line in str(refused.value)


def test_a_padding_token_beyond_the_embedding_is_not_needed(llama: Path, tmp_path: Path) -> None:
    folder = changed(llama, tmp_path / "padded")
    ByteTokenizer().save(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    theirs.split_special_tokens = False
    theirs.add_tokens([AddedToken("<t0>", special=True)])
    theirs.add_special_tokens({"pad_token": "<pad>"})
    theirs.save_pretrained(folder)
    ours = PretrainedTokenizer(source=str(folder)).fit(Jsonl(path="unused"))
    assert (len(theirs), ours.vocab_size) == (259, 258)
    assert ours.encode("a <t0> b").tolist() == theirs("a <t0> b", add_special_tokens=False)["input_ids"]
    assert ours.encode("a <pad> b").max() < 258
    Pretrained(source=str(folder)).build(ours.vocab_size, seed=0)
    ours.save(tmp_path / "saved")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "saved").pad_token_id == 258


# -- classes of the user's own -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["import nowhere", "1 / 0", "def f(:", "raise StopIteration"])
def test_a_class_whose_module_cannot_be_imported_is_one_line(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"own_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=rf"^context\.position\._target_={name}\.Mine: cannot be imported \("):
        build(OmegaConf.create({"_target_": f"{name}.Mine"}), "context.position")


@pytest.mark.parametrize("target", [".Mine", "..a.Mine", "a..Mine", "1.Mine", "os.path.join", "os.nowhere"])
def test_a_target_that_names_no_class_is_one_line(target: str) -> None:
    config, choices = composed("tracking=none")
    config.context.position._target_ = target
    with pytest.raises(ConfigError, match=r"^context\.position\._target_="):
        build_job(config, choices)
