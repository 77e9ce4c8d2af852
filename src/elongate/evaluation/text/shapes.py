"""The formats of data sets. The format of a row is recognized by its fields, so it need not be named in the configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from elongate.errors import ConfigError
from elongate.evaluation.text.records import Record, language_of, list_in, references_in, text_in, texts_in

Reader = Callable[[dict[str, Any], str], Iterator[Record]]


@dataclass(frozen=True)
class Shape:
    """A format of rows, and how to read it."""

    fields: tuple[str, ...]  # a row with all of these fields has this shape
    read: Reader  # a row and its place to records


def records_of(row: dict[str, Any], where: str, shapes: tuple[Shape, ...]) -> Iterator[Record]:
    """The records of a row, read by the first shape that fits. Raises `ConfigError` if none fits."""
    for shape in shapes:
        if all(field in row for field in shape.fields):
            for record in shape.read(row, where):
                if not record.context.strip():
                    raise ConfigError("path", record.id, "has no text to read", "fix or remove it")
                yield record
            return
    known = " or ".join("+".join(shape.fields) for shape in shapes)
    rule = f"is not a record of this task, which needs the fields {known} (it has: {', '.join(row) or 'none'})"
    raise ConfigError("path", where, rule, "choose the evaluation that reads such records, or rename the fields")


def _longbench(row: dict[str, Any], where: str) -> Iterator[Record]:
    context, question = text_in(row, "context", where), text_in(row, "input", where)
    classes = texts_in(row, "all_classes", where) if row.get("all_classes") else ()
    language = text_in(row, "language", where) if row.get("language") else language_of(context[:4000] + question)
    yield Record(str(row.get("_id", where)), context, question, references_in(row, "answers", where), language, classes)


def _squad(row: dict[str, Any], where: str) -> Iterator[Record]:
    for paragraph, where_it_is in squad_paragraphs(row, where):
        for i, asked in enumerate(list_in(paragraph, "qas", where_it_is)):
            yield _asked(asked | {"context": paragraph.get("context")}, f"{where_it_is}.qas[{i}]")


def squad_paragraphs(row: dict[str, Any], where: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The paragraphs of a document in SQuAD's format, each with its place."""
    for i, article in enumerate(list_in(row, "data", where)):
        for j, paragraph in enumerate(list_in(article, "paragraphs", f"{where}.data[{i}]")):
            yield paragraph, f"{where}.data[{i}].paragraphs[{j}]"


def _squad_row(row: dict[str, Any], where: str) -> Iterator[Record]:
    """A row of SQuAD as stored on the hub: answers are {"text": […], "answer_start": […]}."""
    answers = row["answers"] if isinstance(row["answers"], dict) else {}
    yield _asked(row | {"answers": [{"text": text} for text in list_in(answers, "text", where)]}, where)


def _asked(asked: dict[str, Any], where: str) -> Record:
    context, question = text_in(asked, "context", where), text_in(asked, "question", where)
    if asked.get("is_impossible"):
        # In SQuAD 2 the correct answer to such a question is an empty text.
        references: tuple[str, ...] = ("",)
    else:
        texts = [text_in(answer, "text", where) for answer in list_in(asked, "answers", where)]
        references = references_in({"answers": texts}, "answers", where)
    return Record(str(asked.get("id", where)), context, question, references, language_of(context[:4000] + question))


def _qmsum(row: dict[str, Any], where: str) -> Iterator[Record]:
    lines = [f"{text_in(turn, 'speaker', where)}: {text_in(turn, 'content', where)}" for turn in list_in(row, "meeting_transcripts", where)]
    context = "\n".join(lines)
    for kind in ("general_query_list", "specific_query_list"):
        for i, asked in enumerate(list_in(row, kind, where)):
            place = f"{where} {kind}[{i}]"
            references = references_in(asked, "answer", place)
            yield Record(place, context, text_in(asked, "query", place), references, language_of(context[:4000]))


def _pair(source: str, target: str) -> Shape:
    def read(row: dict[str, Any], where: str) -> Iterator[Record]:
        references = references_in(row, target, where)
        yield Record(str(row.get("id", where)), text_in(row, source, where), "", references, language_of(references[0]))

    return Shape((source, target), read)


def _translation(row: dict[str, Any], where: str) -> Iterator[Record]:
    """A pair as stored on the hub, {"en": …, "zh": …}: translated from the first language into the second."""
    pair = row["translation"]
    if not isinstance(pair, dict) or len(pair) != 2:
        raise ConfigError("path", where, "its translation is not a pair of languages", "fix or remove it")
    source, target = pair
    yield Record(str(row.get("id", where)), text_in(pair, source, where), "", references_in(pair, target, where), target)


def _turns(field: str) -> Shape:
    def read(row: dict[str, Any], where: str) -> Iterator[Record]:
        """The last turn is the reference, and the turns before it are the context."""
        turns = [_turn(turn, f"{where} {field}[{i}]") for i, turn in enumerate(list_in(row, field, where))]
        if len(turns) < 2:
            raise ConfigError("path", where, f"its {field} has {len(turns)} turns, and at least 2 are needed", "fix or remove it")
        *before, (speaker, last) = turns
        context = "\n".join(f"{name}: {said}" if name else said for name, said in before)
        references = references_in({"last turn": last}, "last turn", where)
        yield Record(str(row.get("id", where)), context, f"{speaker}:" if speaker else "", references, language_of(context[:4000]))

    return Shape((field,), read)


def _turn(turn: Any, where: str) -> tuple[str, str]:
    """The speaker and the text of {"speaker": …, "content": …}, of {"role": …, "content": …}, or of a text without a speaker."""
    if not isinstance(turn, dict):
        return "", text_in({"turn": turn}, "turn", where)
    return text_in(turn, "speaker" if "speaker" in turn else "role", where), text_in(turn, "content", where)


def _labelled(row: dict[str, Any], where: str) -> Iterator[Record]:
    text = text_in(row, "text", where)
    classes = texts_in(row, "classes", where) if row.get("classes") else ()
    yield Record(str(row.get("id", where)), text, "", references_in(row, "label", where), language_of(text[:4000]), classes)


LONGBENCH = Shape(("context", "input", "answers"), _longbench)
SQUAD = Shape(("data",), _squad)
SQUAD_ROW = Shape(("context", "question", "answers"), _squad_row)
QMSUM = Shape(("meeting_transcripts", "general_query_list", "specific_query_list"), _qmsum)
PAIR = _pair("source", "target")
SUMMARY = _pair("document", "summary")
HIGHLIGHTS = _pair("article", "highlights")
TRANSLATION = Shape(("translation",), _translation)
DIALOGUE = _turns("dialogue")
MESSAGES = _turns("messages")
LABELLED = Shape(("text", "label"), _labelled)
