"""`elongate-generate`: continues texts with a run, or with any causal checkpoint, in any attention."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig

from elongate.config import PRECISIONS, build_class, check_device, check_kernels
from elongate.console import say, warn
from elongate.data.tokenizer.pretrained import Pretrained as PretrainedTokenizer
from elongate.errors import ConfigError, require
from elongate.evaluate import ContextKeys, ModelKeys, named_checkpoint, run_attention, run_config, run_results, set_attention
from elongate.foreign import foreign
from elongate.generation.sampling import Sampling
from elongate.models.pretrained import Pretrained

if TYPE_CHECKING:
    from elongate.data.tokenizer.tokenizer import Tokenizer
    from elongate.generation.writing import Written
    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The configuration of `elongate-generate`."""

    checkpoint: str  # a run directory, a transformers folder or a hub id
    prompt: str | None  # a text to continue
    file: str | None  # or a jsonl file with a text in the field `prompt` of each line
    output: str | None  # jsonl file for the texts of `file`; null: the name of `file` with .written.jsonl
    max_tokens: int  # written after each prompt, at least 1
    stop: list[str]  # strings that end a text and are left out, not empty
    precision: str | None  # fp32, bf16, bf16_pure (weights are bfloat16 too); null: the run's, or fp32
    kernels: str  # fused layers: auto (Liger on CUDA, where it is installed), none or liger
    device: str  # auto, cpu, cuda, cuda:1 …
    sampling: Sampling
    model: ModelKeys
    context: ContextKeys

    def __post_init__(self) -> None:
        given = [key for key in ("prompt", "file") if getattr(self, key) is not None]
        require(bool(given), "prompt", None, "a text to continue must be given", "add prompt=<text>, or file=<jsonl file>")
        require(len(given) == 1, "file", self.file, "a prompt is given too", "leave one of the two out")
        rule = "is only written for the prompts of a file"
        require(self.output is None or self.file is not None, "output", self.output, rule, "leave {key} out, or give file=<jsonl file>")
        require(self.max_tokens > 0, "max_tokens", self.max_tokens, "must be at least 1", "use {key}=256")
        require(all(self.stop), "stop", self.stop, "contains an empty string", "leave it out")
        check_device(self.device)
        check_kernels(self.kernels)
        rule = f"must be one of {', '.join(PRECISIONS)}"
        require(self.precision in (None, *PRECISIONS), "precision", self.precision, rule, "use {key}=fp32")

    @property
    def folder(self) -> Path:
        """The checkpoint as a path, whether it exists or not."""
        return Path(self.checkpoint).expanduser()

    @property
    def written_file(self) -> Path:
        """Where the texts of `file` are written."""
        assert self.file is not None
        return Path(self.output or Path(self.file).with_suffix(".written.jsonl")).expanduser()

    @property
    def digest(self) -> str:
        """A hash of everything that the written texts depend on, without the file names."""
        fields = {key: value for key, value in asdict(self).items() if key not in ("prompt", "file", "output", "device", "kernels")}
        return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:16]


def generate_texts(config: DictConfig) -> None:
    """Writes the continuation of the prompt to standard output, or those of a file to another file. Raises `ConfigError`."""
    settings: Settings = build_class(Settings, config, "")
    prompts = [str(settings.prompt)] if settings.file is None else list(_prompts(Path(settings.file).expanduser()))
    first = 0 if settings.file is None else _num_written(settings, prompts)
    model, tokenizer, reach = _open(settings)
    encoded = [tokenizer.begin(tokenizer.encode(prompt)) for prompt in prompts]
    _check_lengths(settings, model, encoded, reach)
    if settings.file is None:
        for written in _continued(settings, model, tokenizer, encoded[0]):
            sys.stdout.write(written.news(settings.stop))
            sys.stdout.flush()
        sys.stdout.write("\n")
        return
    with settings.written_file.open("a", encoding="utf-8") as file:
        for index in range(first, len(prompts)):
            *_, written = _continued(settings, model, tokenizer, encoded[index])
            line = {"index": index, "prompt": prompts[index], "text": written.text, "tokens": len(written.tokens)}
            file.write(json.dumps(line | {"finish_reason": written.reason, "settings": settings.digest}, ensure_ascii=False) + "\n")
            file.flush()
    say(f"written: {settings.written_file} ({len(prompts)} texts, {first} of them before)")


def _continued(settings: Settings, model: LanguageModel, tokenizer: Tokenizer, prompt: np.ndarray) -> Iterator[Written]:
    from elongate.generation.writing import write

    return write(model, tokenizer, prompt, settings.max_tokens, settings.sampling, settings.stop)


def _open(settings: Settings) -> tuple[LanguageModel, Tokenizer, int]:
    """The model on its device with its attention, its tokenizer, and the length that it was extended to."""
    run = run_config(settings.folder)
    strategy = run_results(settings.folder)["strategy"] if run else {}
    # Before the model is opened: its position may be a class of the user's own, which this imports.
    attention = settings.context.attention or run_attention(run)
    with named_checkpoint(settings.checkpoint):
        source = Pretrained(source=str(settings.folder / "model") if run else settings.checkpoint)
        tokenizer = PretrainedTokenizer(source=source.source).fit(None)  # type: ignore[arg-type]  # not trained, so it needs no text
    from elongate.models.compatibility import check_network
    from elongate.models.kernels import use_kernels
    from elongate.models.precision import use_precision
    from elongate.training.device import find_device

    with named_checkpoint(settings.checkpoint):
        model = source.build(tokenizer.vocab_size, 0)
        model.network.to(find_device(settings.device)).eval()
        rule, remedy = "predicts hidden tokens and cannot write text", "name a causal model"
        require("causal" in model.has, "checkpoint", settings.checkpoint, rule, remedy)
        check_network(model)
        model.kernels = use_kernels(model.network, settings.kernels, model.device)
        original = settings.model.original_length or strategy.get("original_length") or model.original_length
        target = settings.context.target_length or strategy.get("target_length") or model.original_length
    use_precision(model, settings.precision or run.get("precision", "fp32"))
    set_attention(model, attention, target, original)
    return model, tokenizer, target


def _check_lengths(settings: Settings, model: LanguageModel, prompts: list[np.ndarray], reach: int) -> None:
    """Raises `ConfigError` for texts that the positions cannot number; warns of those longer than the model was extended to."""
    require(all(len(prompt) for prompt in prompts), "prompt", "", "gives no tokens", "give at least a word")
    longest = max((len(prompt) for prompt in prompts), default=0) + settings.max_tokens
    if (last := model.last_position(longest - 2)) < longest - 2:
        rule = f"with a prompt of {longest - settings.max_tokens} tokens exceeds the {last + 1} positions of the model"
        raise ConfigError("max_tokens", settings.max_tokens, rule, "use fewer, or a shorter prompt")
    if longest > reach and model.attention.word not in ("sinks", "window"):
        warn(f"texts of up to {longest} tokens are longer than the {reach} that the model reads (context/attention=sinks stays fluent)")


def _prompts(file: Path) -> Iterator[str]:
    """The prompts of a jsonl file. Raises `ConfigError` for one that cannot be read."""
    require(file.is_file(), "file", file, "there is no such file", "name a jsonl file with a text in the field `prompt` of each line")
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        rule = f"line {number} has no text in the field `prompt`"
        with foreign(lambda reason, rule=rule: ConfigError("file", file, f"{rule} ({reason})", 'write {"prompt": "text"}')):  # type: ignore[misc]
            found = json.loads(line)
        if not isinstance(found, dict) or not isinstance(found.get("prompt"), str):
            raise ConfigError("file", file, rule, 'write {"prompt": "text"}')
        yield found["prompt"]


def _num_written(settings: Settings, prompts: list[str]) -> int:
    """The number of prompts that an earlier call has answered. A last line that it could not finish is removed."""
    file = settings.written_file
    if not file.is_file():
        return 0
    whole = file.read_bytes()
    whole = whole[: whole.rfind(b"\n") + 1]
    lines = [_line(text) for text in whole.decode("utf-8", errors="replace").splitlines()]
    expected = [(prompt, settings.digest) for prompt in prompts[: len(lines)]]
    if [(line.get("prompt"), line.get("settings")) for line in lines] != expected:
        rule = "contains texts of other prompts, or of other settings"
        raise ConfigError("output", file, rule, "use {key}=<another file>, or remove it")
    file.write_bytes(whole)
    return len(lines)


def _line(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
