"""Tasks whose answer is a text that the model generates by greedy decoding; the text is scored against references."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from elongate.errors import require
from elongate.evaluation.evaluation import Setting, check_writes
from elongate.evaluation.text.estimates import mean_of
from elongate.evaluation.text.records import Record
from elongate.evaluation.text.task import TextTask, name_of, texts_of

if TYPE_CHECKING:
    from elongate.data.tokenizer.tokenizer import Tokenizer
    from elongate.models.language_model import LanguageModel
    from elongate.scoring.scorer import Scorer


@dataclass(frozen=True, kw_only=True)
class Written(TextTask):
    """A task with generated answers."""

    max_new_tokens: int  # generated tokens of an answer at most, at least 1

    one_line: ClassVar[bool] = True  # an answer ends at the end of its line

    def __post_init__(self) -> None:
        require(self.max_new_tokens > 0, "max_new_tokens", self.max_new_tokens, "must be at least 1", "use {key}=32")
        super().__post_init__()

    @abstractmethod
    def score(self, prediction: str, record: Record) -> dict[str, float]:
        """The figures of one sample, by name."""

    def estimates(self, predictions: list[str], records: list[Record]) -> dict[str, tuple[float, float | None]]:
        """The figures over all samples, each with its standard error (None if it cannot be computed)."""
        scores = [self.score(prediction, record) for prediction, record in zip(predictions, records, strict=True)]
        return {figure: mean_of([score[figure] for score in scores]) for figure in self.measures}

    def check(self, reading: Scorer) -> None:
        check_writes(reading, f"evaluation.{self.word}", self.word, "use evaluation=[classification], which needs no generated text")

    def header(self, setting: Setting) -> dict[str, Any]:
        self.check(setting.reading)
        return super().header(setting) | {"max_new_tokens": self.max_new_tokens}

    def reserved(self, record: Record, setting: Setting) -> int:
        return self.max_new_tokens

    def measure(self, model: LanguageModel, setting: Setting, tick: Callable[[str], None]) -> dict[str, Any]:
        prompts = self.prompts(setting)
        predictions = self.known(prompts, setting)
        enough = self._enough(setting.tokenizer)
        model.network.eval()
        for numbers in self.batches(prompts, predictions):
            tick(f"{self.word} {len(predictions)}/{len(prompts)}")
            written = setting.reading.continuation(model, texts_of(prompts, numbers), self.max_new_tokens, enough)
            if written is not None:
                found = {i: self._text(setting.tokenizer, tokens) for i, tokens in zip(numbers, written, strict=True)}
                setting.samples.add({name_of(i, prompts): self._sample(*prompts[i], text) for i, text in found.items()})
                predictions |= found
        read = sorted(predictions)
        estimates = self.estimates([predictions[i] for i in read], [prompts[i][0] for i in read]) if read else {}
        return self.row(len(read), estimates)

    def _sample(self, record: Record, prompt: Any, prediction: str) -> dict[str, Any]:
        return {
            "id": record.id,
            "prediction": prediction,
            "references": list(record.references),
            "score": self.score(prediction, record),
            "prompt_tokens": len(prompt.tokens),
            "is_cut": prompt.is_cut,
        }

    def _enough(self, tokenizer: Tokenizer) -> Callable[[np.ndarray], bool]:
        def enough(written: np.ndarray) -> bool:
            # Blank lines before the answer do not end it.
            ended = bool(written[-1] == tokenizer.end_of_document)
            return ended or (self.one_line and "\n" in tokenizer.decode(written).lstrip())

        return enough

    def _text(self, tokenizer: Tokenizer, tokens: np.ndarray) -> str:
        text = tokenizer.decode(tokens).strip()
        return text.split("\n")[0].strip() if self.one_line else text
