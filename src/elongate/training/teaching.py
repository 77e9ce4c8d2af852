"""Opens the teacher of an objective, and checks that the student can learn from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from elongate.console import say
from elongate.data.tokenizer.files import read_files
from elongate.data.tokenizer.folder import load_tokenizer
from elongate.data.tokenizer.tokenizer import Tokenizer
from elongate.errors import ConfigError, require
from elongate.objectives.teacher import Teacher, TeacherSource
from elongate.training.base import Origin, opened
from elongate.training.job import Job

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel

_KEY = "objective.teacher.source"
_REMEDY = "name a teacher with the tokenizer of the student, or use {key}=null"


def open_checkpoint(job: Job, tokenizer: Tokenizer) -> Teacher | None:
    """Returns the teacher if it is a checkpoint. Call before a base is trained. Raises `ConfigError`."""
    source = job.objective.teacher_source
    if source is None or source.is_original:
        return None
    try:
        compared = _check_tokenizer(tokenizer, source)
        choice = source.model
        # The tokenizer's size is compared below.
        model = choice.build(1, job.seed)
        theirs, ours = model.vocab_size, tokenizer.vocab_size
        # A fresh student has no further words. Of a checkpoint, `with_teacher` compares them.
        _require_words(ours <= theirs if compared or not job.model.fresh else ours == theirs, theirs, ours, source)
        opened(model, job)
        length = choice.original_length or model.original_length
    except ConfigError as fault:
        raise ConfigError(_KEY, source.source, fault.rule, fault.remedy) from fault
    if not model.is_causal:
        rule = f"reads both sides of a text, and objective={job.objective.word} needs a teacher that reads from left to right"
        raise ConfigError(_KEY, source.source, rule, "name a causal checkpoint")
    return Teacher(model, length)


def with_teacher(
    job: Job, teacher: Teacher | None, origin: Origin, student: LanguageModel, original_length: int, weights: Mapping[str, Any]
) -> Job:
    """Returns the job with its objective taught by the checkpoint, or by the model before the extension if that is None.

    `weights`: the student's parameters by their names before the tuning, which is applied now. The original model uses the
    memory of those that are frozen. Raises `ConfigError` if the checkpoint has another vocabulary.
    """
    source = job.objective.teacher_source
    if source is None:
        return job
    if teacher is None:
        teacher = Teacher(origin.build(job), original_length)
        teacher.share(weights)
    else:
        theirs, ours = teacher.model.vocab_size, student.vocab_size
        _require_words(ours == theirs or _has_tokenizer(source), theirs, ours, source)
    line = f"teacher: {source.source or 'the model before the extension'}, {teacher.model.num_parameters():,} parameters"
    line += f", trained on {teacher.length:,} tokens"
    if teacher.length < job.strategy.target_length:
        line += "; later tokens are learned from the text alone"
    say(line)
    return replace(job, objective=job.objective.opened(teacher))


def _has_tokenizer(source: TeacherSource) -> bool:
    folder = source.model.files()
    assert folder is not None, "a checkpoint has files"
    return bool(read_files(folder))


def _check_tokenizer(ours: Tokenizer, source: TeacherSource) -> bool:
    """Returns whether the teacher has a tokenizer. Raises `ConfigError` if an id means another token there."""
    if not _has_tokenizer(source):
        return False
    folder = source.model.files()
    assert folder is not None, "a checkpoint has files"
    theirs = load_tokenizer(folder)
    if theirs.fingerprint == ours.fingerprint:
        return True
    our_words, their_words = ours.words, theirs.words
    for number in sorted(our_words.keys() & their_words.keys()):
        if (one := our_words[number]) != (other := their_words[number]):
            rule = (
                f"has another vocabulary: {theirs.vocab_size} tokens where the student has {ours.vocab_size}, "
                f"and token {number} is {other!r} there and {one!r} here"
            )
            raise ConfigError(_KEY, source.source, rule, _REMEDY)
    return True


def _require_words(fits: bool, theirs: int, ours: int, source: TeacherSource) -> None:
    """Raises `ConfigError` if the teacher cannot read all tokens, or nothing says that they are its own."""
    rule = f"has another vocabulary: {theirs} words where the student has {ours}"
    require(fits, _KEY, source.source, rule, _REMEDY)
