"""Classification of texts: the predicted label is the one with the highest log-probability after the prompt.

No text is generated, so masked models can be measured too. Accuracy, macro-averaged F1 and Matthews' correlation are computed by
scikit-learn. The log-probability is that of the whole label, so a label of many tokens is at a disadvantage against a short one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float

from elongate.errors import ConfigError
from elongate.evaluation.evaluation import Setting
from elongate.evaluation.text.estimates import bootstrapped, mean_of
from elongate.evaluation.text.records import Record
from elongate.evaluation.text.shapes import LABELLED, LONGBENCH, Shape, records_of
from elongate.evaluation.text.task import TextTask, name_of, texts_of

if TYPE_CHECKING:
    from elongate.data.tokenizer.tokenizer import Tokenizer
    from elongate.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Classification(TextTask):
    """Accuracy, macro-F1 and Matthews' correlation of the likeliest labels."""

    template: str = "{context}\n\n{question}\nClass ({classes}):"

    word: ClassVar[str] = "classification"
    shapes: ClassVar[tuple[Shape, ...]] = (LONGBENCH, LABELLED)
    packages: ClassVar[dict[str, str]] = {"sklearn": "scikit-learn"}
    measures: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1", "matthews")

    def signatures(self, records: list[Record]) -> dict[str, str]:
        return {figure: f"scikit-learn {version('scikit-learn')}, likeliest label" for figure in self.measures}

    def reserved(self, record: Record, setting: Setting) -> int:
        return max(len(label) for label in self._labels(record, setting.tokenizer))

    def measure(self, model: LanguageModel, setting: Setting, tick: Callable[[str], None]) -> dict[str, Any]:
        prompts = self.prompts(setting)
        predictions = self.known(prompts, setting)
        classes = [record.classes for record, _ in prompts]
        model.network.eval()
        for numbers in self.batches(prompts, predictions, more=classes):
            tick(f"{self.word} {len(predictions)}/{len(prompts)}")
            labels = self._labels(prompts[numbers[0]][0], setting.tokenizer)
            chances = _chances(model, setting, texts_of(prompts, numbers), labels)
            read = {i: row for i, row in zip(numbers, chances, strict=True) if not np.isnan(row).any()}
            found = {i: classes[i][int(row.argmax())] for i, row in read.items()}
            by_label = {i: dict(zip(classes[i], row.tolist(), strict=True)) for i, row in read.items()}
            setting.samples.add({name_of(i, prompts): self._sample(*prompts[i], label, by_label[i]) for i, label in found.items()})
            predictions |= found
        those = sorted(predictions)
        estimates = scores([prompts[i][0].references[0] for i in those], [predictions[i] for i in those]) if those else {}
        return self.row(len(those), estimates)

    def _sample(self, record: Record, prompt: Any, prediction: str, chances: dict[str, float]) -> dict[str, Any]:
        return {
            "id": record.id,
            "prediction": prediction,
            "references": list(record.references),
            "score": {"accuracy": float(prediction == record.references[0])},
            "log_probability": chances,
            "prompt_tokens": len(prompt.tokens),
            "is_cut": prompt.is_cut,
        }

    def _labels(self, record: Record, tokenizer: Tokenizer) -> list[np.ndarray]:
        """The tokens of each label, preceded by a space unless the template ends with one."""
        space = "" if self.template[-1].isspace() else " "
        return [tokenizer.encode(space + label) for label in record.classes]

    def _read(self) -> Iterator[Record]:
        for row, where in self._rows():
            for record in records_of(row, where, self.shapes):
                if len(record.classes) < 2:
                    rule = f"has {len(record.classes) or 'no'} classes to choose from"
                    raise ConfigError("path", where, rule, "list them in all_classes (LongBench's form) or classes")
                if record.references[0] not in record.classes:
                    raise ConfigError("path", where, f"its label {record.references[0]} is not one of its classes", "fix or remove it")
                yield record


def _chances(model: LanguageModel, setting: Setting, texts: np.ndarray, labels: list[np.ndarray]) -> Float[np.ndarray, "n labels"]:
    """The log-probability of each label after each text; labels of equal length share a prefill."""
    found = np.empty((len(texts), len(labels)))
    for size in sorted({len(label) for label in labels}):
        which = [i for i, label in enumerate(labels) if len(label) == size]
        choices = np.broadcast_to(np.stack([labels[i] for i in which]), (len(texts), len(which), size))
        found[:, which] = setting.reading.answers(model, texts, choices.copy())[0]
    return found


def scores(wanted: list[str], found: list[str]) -> dict[str, tuple[float, float | None]]:
    """The three figures with their standard errors. Macro-F1 is over the classes that occur among the labels or the predictions."""
    from sklearn.metrics import f1_score, matthews_corrcoef

    labels, guesses = np.array(wanted), np.array(found)

    def macro_f1(numbers: np.ndarray) -> float:
        return float(f1_score(labels[numbers], guesses[numbers], average="macro", zero_division=0.0))

    def matthews(numbers: np.ndarray) -> float:
        if len({*labels[numbers], *guesses[numbers]}) == 1:
            return 0.0  # scikit-learn's own value, without its warning
        return float(matthews_corrcoef(labels[numbers], guesses[numbers]))

    return {
        "accuracy": mean_of((labels == guesses).astype(float).tolist()),
        "macro_f1": bootstrapped(macro_f1, len(labels)),
        "matthews": bootstrapped(matthews, len(labels)),
    }
