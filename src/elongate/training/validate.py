"""All checks of a run, in the order in which their facts become known.

`before_torch` needs the configuration, `with_corpus` also the text, `with_model` also the opened model. What is known
of a fresh model is known from its configuration, so a mistake is reported before its base is trained. Of a checkpoint
most is known only when it is open, so `with_model` repeats the checks of `before_torch` with its facts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from elongate.errors import ConfigError, inside, require
from elongate.evaluation.evaluation import Evaluation, Setting
from elongate.training.job import Job
from elongate.training.search import check_documents
from elongate.training.text import Text

if TYPE_CHECKING:
    from elongate.data.tokens import Corpus, Tokens
    from elongate.models.language_model import LanguageModel


def before_torch(job: Job) -> Job:
    """Checks what the configuration alone decides. Never imports torch. Raises `ConfigError`.

    Returns the job. If the model's capabilities are known, its objective is bound to them.
    """
    model = job.model
    if model.has is not None and model.original_length is not None:
        job = check_capabilities(job, model.has, model.original_length)
        for evaluation in job.evaluations:
            evaluation.check(job.objective.scorer)
    check_combinations(job)
    _check_metric(job)
    if model.original_length is not None:
        check_lengths(job, model.original_length, model.block_length)
    return job


def _check_metric(job: Job) -> None:
    words, metric = [evaluation.word for evaluation in job.evaluations], job.sweep.metric
    known = metric is None or metric.partition("/")[0] in words
    rule = f"must begin with a chosen evaluation: {', '.join(words) or 'none is chosen'}"
    require(known, "sweep.metric", metric, rule, f"use {{key}}={words[0]}/…" if words else "use evaluation=[curve]")


def with_corpus(job: Job, text: Text) -> dict[str, Any]:
    """Checks that the text is long enough, and that a fresh model can be tuned. Raises `ConfigError`.

    Returns the headers of the evaluations; none for a checkpoint, whose original length is not known yet.
    """
    known_headers = {}
    _check_tokens(job, text.corpus.train)
    if job.model.original_length is not None:
        check_documents(job, text.corpus, job.model.original_length)
        known_headers = headers(job.evaluations, evaluation_setting(job, text, job.model.original_length))
    if job.model.fresh:
        _check_tuning(job, text.tokenizer.vocab_size)
    return known_headers


def with_model(job: Job, model: LanguageModel, corpus: Corpus | None = None) -> tuple[Job, int]:
    """Checks what the opened model decides; `plan=true` reads no corpus. Raises `ConfigError`.

    Returns the job with its objective bound to the model, and the original length.
    """
    from elongate.models.compatibility import check_isolation, check_strategy

    original_length = job.model.original_length or model.original_length
    job = check_capabilities(job, model.has, original_length)
    check_lengths(job, original_length, model.block_length)
    if corpus is not None:
        check_documents(job, corpus, original_length)
    check_strategy(model, job.strategy, original_length)
    if job.data.isolates:
        check_isolation(model)
    return job, original_length


def headers(evaluations: tuple[Evaluation, ...], setting: Setting) -> dict[str, Any]:
    """Returns what each evaluation measures, by its word. Raises `ConfigError` for what cannot be measured."""
    return {evaluation.word: evaluation.header(setting) for evaluation in evaluations}


def evaluation_setting(job: Job, text: Text, original_length: int) -> Setting:
    """Returns what all models of the run are measured on: the held-out documents."""
    corpus, target_length = text.corpus, job.strategy.target_length
    return Setting(corpus.validation, text.tokenizer, original_length, target_length, job.seed, job.objective.scorer)


def check_combinations(job: Job) -> None:
    """Raises `ConfigError` for choices that do not work with each other."""
    memory, sampling = job.memory, job.strategy.sampling
    if job.compile and not memory.can_compile:
        rule = f"cannot be combined with memory={memory.word}: torch runs its layers uncompiled"
        raise ConfigError("compile", True, rule, "use {key}=false, or memory=stream")
    if job.compile and job.kernels == "liger":
        raise ConfigError("kernels", job.kernels, "cannot be combined with compile=true, which fuses the same layers", "use {key}=auto")
    if job.objective.rows_meet and memory.splits_rows:
        rule = f"cannot be combined with objective={job.objective.word}, whose loss compares whole sequences"
        raise ConfigError("memory", memory.word, rule, "use {key}=checkpoint")
    if sampling is not None and job.data.isolates:
        rule = f"cannot be combined with {job.data.isolation}: both decide the positions of a sequence"
        raise ConfigError("context/sampling", sampling.word, rule, "use one of the two")
    if job.model.attention_dropout > 0:
        _check_attention_dropout(job)
    if job.precision == "bf16_pure":
        _check_pure(job)
    _check_teacher(job)


def check_capabilities(job: Job, has: frozenset[str], original_length: int) -> Job:
    """Returns the job with its objective bound to the model's capabilities.

    Raises `ConfigError` if the model lacks what the strategy, the objective, the memory plan or the data needs.
    """
    job.strategy.check(has, original_length, job.model.word)
    job.objective.check(has, job.model.word)
    job.memory.check_able(has, job.model.word)
    if job.data.isolates and "regions" not in has:
        key, _, value = job.data.isolation.partition("=")
        rule = f"needs attention in regions, which model={job.model.word} does not have"
        raise ConfigError(key, value, rule, f"use {{key}}={'false' if value == 'true' else 'stream'}")
    with inside("objective"):
        return replace(job, objective=job.objective.bind(has, original_length))


def check_lengths(job: Job, original_length: int, block_length: int) -> None:
    """Raises `ConfigError` if the lengths do not fit each other, or a batch is shorter than a sequence."""
    target = job.strategy.target_length
    rule = f"is below the model's original length of {original_length}: there is nothing to extend"
    require(target >= original_length, "context.target_length", target, rule, f"use {{key}}={4 * original_length}")
    job.strategy.check_length(original_length)
    if job.model.rotary is not None:
        job.strategy.position.check(job.model.rotary, target / original_length)
    lengths = {stage.length for stage in job.strategy.stages(original_length, job.steps)}
    longest = max(lengths)
    with inside("objective"):
        job.objective.check_length(longest, original_length)
        for length in sorted(lengths | ({original_length} if job.model.fresh else set())):
            job.objective.check_blocks(length, original_length, block_length)
    rule = f"is less than one sequence of {longest} tokens"
    require(job.batch_tokens >= longest, "batch_tokens", job.batch_tokens, rule, f"use {{key}}={longest} or more")
    job.objective.check_batch(job.batch_tokens, longest)
    _check_warmup(job)


def _check_teacher(job: Job) -> None:
    if (teacher := job.objective.teacher_source) is None:
        return
    teacher.check("objective.teacher.source")
    curriculum = job.strategy.curriculum
    untrained = teacher.is_original and job.model.fresh and curriculum.base is None
    rule = f"trains no base, and objective={job.objective.word} would learn from a model with random weights"
    remedy = "use {key}=extend, or objective=distillation objective.teacher.source=<hub id or folder>"
    require(not untrained, "context/curriculum", curriculum.word, rule, remedy)


def _check_pure(job: Job) -> None:
    rule = f"needs an optimizer that rounds its updates stochastically, and optimizer={job.optimizer.word} rounds to the nearest"
    require(job.optimizer.rounds_stochastically, "precision", job.precision, rule, "use optimizer=adamw, or {key}=bf16")
    rule = f"trains the network's own weights in bfloat16, and tuning={job.tuning.word} trains others, which need little memory"
    require(job.tuning.trains_network, "precision", job.precision, rule, "use {key}=bf16, or tuning=full")


def _check_attention_dropout(job: Job) -> None:
    without = [] if job.strategy.attention.is_full else [f"context/attention={job.strategy.attention.word}"]
    without += [] if job.memory.has_attention_weights else [f"memory={job.memory.word}"]
    without += [job.data.isolation] if job.data.isolates else []
    if without:
        rule = f"needs the whole matrix of attention weights, which does not exist with {without[0]}"
        raise ConfigError("model.attention_dropout", job.model.attention_dropout, rule, "use {key}=0; other dropouts work")


def _check_warmup(job: Job) -> None:
    base = job.strategy.curriculum.base if job.model.fresh else None
    with inside("schedule"):
        for steps in (job.steps, *([base.steps] if base else [])):
            job.schedule.check_steps(steps)


def _check_tokens(job: Job, train: Tokens) -> None:
    longest = target = job.strategy.target_length
    if job.strategy.sampling is not None:
        # Sequences are at most as long as the original length, which of a checkpoint is only known when it is open.
        longest = min(longest, job.model.original_length or 1)
    if len(train) < longest + 1:
        rule = f"a sequence needs {longest + 1} tokens, the training text has {len(train)}"
        raise ConfigError("context.target_length", target, rule, "use a shorter length or more text")
    base = job.strategy.curriculum.base if job.model.fresh else None
    steps = max(job.steps, base.steps if base else 0)
    parts = {name: int(train.bounds[last] - train.bounds[first]) for name, (first, last) in train.parts.items()}
    job.data.check_amount(parts, longest + 1, steps * job.batch_tokens)


def _check_tuning(job: Job, vocab_size: int) -> None:
    """Applies the tuning to a model without weights, before the base is trained."""
    import torch

    with torch.device("meta"), inside("tuning"):
        job.tuning.apply(job.model.build(vocab_size, job.seed), job.seed)
