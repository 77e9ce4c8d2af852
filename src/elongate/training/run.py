"""One run from beginning to end: base, extension, export, measurement, report.

Every start skips what earlier starts finished, so a run may be killed at any time and resumed by the same command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from elongate.console import say, warn
from elongate.data.tokens import Corpus, load_corpus
from elongate.errors import ConfigError, Stopped, inside
from elongate.evaluation.evaluation import Setting, add_row, run_evaluation
from elongate.evaluation.measurement.samples import Samples
from elongate.report.page import write_report
from elongate.report.scalars import scalars
from elongate.training.interrupt import Interrupt
from elongate.training.job import Job, check_able, check_lengths
from elongate.training.origin import Origin, export, find_device, find_origin, fitted_tokenizer
from elongate.training.run_directory import RunDirectory
from elongate.training.search import check_documents, settled

if TYPE_CHECKING:
    import torch

    from elongate.data.tokenizer.tokenizer import Tokenizer
    from elongate.models.language_model import LanguageModel
    from elongate.tracking import Tracker
    from elongate.training.loop import Fit

Lines = list[dict[str, Any]]


def run(job: Job, directory: RunDirectory) -> dict[str, Any]:
    """Completes the run and returns its results. Raises `ElongateError`."""
    if not job.overwrite:
        directory.check(job.config)
        if "finished" in (results := directory.read_results()):
            say(f"{directory.path} is already finished (overwrite=true starts over)")
            return results
    tokenizer = fitted_tokenizer(job)
    with inside("data"):
        corpus = load_corpus(job.data, tokenizer)
    _check_tokens(job, corpus)
    if job.model.original_length is not None:
        check_documents(job, corpus, job.model.original_length)
        # Check before training the base. For a checkpoint, this is only known after loading it.
        _headers(job, _setting(job, corpus, tokenizer, job.model.original_length))
    warn_of_slow_precision(job.precision, find_device(job.device))
    _check_tuning(job, tokenizer.vocab_size)
    from elongate.models.compatibility import check_strategy

    with Interrupt() as interrupt, _Tracked(job, directory).session() as tracked:
        origin = find_origin(job, corpus, tokenizer, interrupt)
        model = origin.build(job)
        original_length = job.model.original_length or model.original_length
        job = check_able(job, model.has, original_length)
        check_lengths(job, original_length, model.block_length)
        check_documents(job, corpus, original_length)
        check_strategy(model, job.strategy, original_length)
        _warn_of_lost_positions(job, model)
        _tune(job, model)
        setting = _setting(job, corpus, tokenizer, original_length)
        headers = _headers(job, setting)
        # Claim the run directory only now, so a rejected configuration leaves nothing behind.
        directory.claim(job.config, job.overwrite)
        results = directory.read_results()
        job = settled(job, model, original_length, corpus, directory, interrupt)
        results |= _trained(job, model, original_length, corpus, directory, origin, tracked.start, interrupt)
        directory.write_results(results)
        job.tuning.merge(model)
        if not directory.model.exists():
            export(model, tokenizer, directory.model)
            if not model.position.is_plain:
                say(
                    f"plain transformers cannot express {model.position.word}: evaluate with python evaluate.py checkpoint={directory.path}"
                )
            elif (word := job.strategy.measured_attention.word) != "full":
                say(f"plain transformers reads {directory.model} with full attention, evaluate.py checkpoint={directory.path} with {word}")
        results = headers | results
        _measure(job, model, setting, origin, directory, results, interrupt)
        pages = write_report(directory.path, job.evaluations)
        tracked.tracker.report(scalars(results, job.evaluations), pages["images"], pages["tables"])
    # Set this last: a finished run is never modified again.
    results["finished"] = True
    directory.write_results(results)
    if interrupt.requested:
        raise Stopped(f"stopped by {interrupt.requested} after the run finished; run the same command to see its results")
    return results


def _setting(job: Job, corpus: Corpus, tokenizer: Tokenizer, original_length: int) -> Setting:
    return Setting(corpus.validation, tokenizer, original_length, job.strategy.target_length, job.seed, job.objective.scorer)


def _headers(job: Job, setting: Setting) -> dict[str, Any]:
    """The header of each evaluation, by its word. Raises `ConfigError` if one cannot be measured."""
    return {evaluation.word: evaluation.header(setting) for evaluation in job.evaluations}


class _Tracked:
    """The tracker of a run. It starts when the earlier metrics are known and is always finished."""

    tracker: Tracker

    def __init__(self, job: Job, directory: RunDirectory) -> None:
        self._job, self._directory, self._started = job, directory, False

    def start(self, history: Lines) -> Callable[[dict[str, Any]], None]:
        self.tracker = self._job.tracking.start(self._directory.path, self._directory.path.name, dict(self._job.config), history)
        self._started = True
        return self.tracker.log

    @contextmanager
    def session(self) -> Iterator[_Tracked]:
        code = 1
        try:
            yield self
            code = 0
        except Stopped:
            code = Stopped.exit_code
            raise
        finally:
            if self._started:
                self.tracker.finish(code)


def _trained(
    job: Job,
    model: LanguageModel,
    original_length: int,
    corpus: Corpus,
    directory: RunDirectory,
    origin: Origin,
    track: Callable[[Lines], Callable[[dict[str, Any]], None]],
    interrupt: Interrupt,
) -> dict[str, Any]:
    """Trains and returns the sections strategy, budget, stages and data of the results."""
    from elongate.training.loop import fit

    target_length = job.strategy.target_length
    stages = job.strategy.stages(original_length, job.steps)
    fitted = fit(job, model, original_length, corpus.train, stages, directory, origin.metrics, track, interrupt)
    # Measure and export at the target length, which training with sampled positions may not have reached.
    proof = fitted.proof if stages[-1].reach == target_length else model.extend(job.strategy, original_length, target_length)
    for line in _proof_lines(job, proof):
        say(line)
    lines = directory.read_metrics()[len(origin.metrics) :]
    strategy = {
        "model": job.model.word,
        "context": job.context,
        "position": job.strategy.position.word,
        "attention": job.strategy.attention.word,
        "evaluation_attention": job.strategy.measured_attention.word,
        "curriculum": job.strategy.curriculum.word,
        "sampling": None if job.strategy.sampling is None else job.strategy.sampling.word,
        "objective": job.objective.word,
        "tuning": job.tuning.word,
        "adapters": job.tuning.adapters(model),
        "original_length": original_length,
        "target_length": target_length,
        "factor": target_length / original_length,
        "proof": proof,
    }
    data = {
        "source": job.data.__module__.rpartition(".")[2],
        "train_tokens": len(corpus.train),
        "validation_tokens": len(corpus.validation),
        "consumed_tokens_sha256": fitted.progress.consumed,
    }
    stage_rows = []
    for stage in stages:
        logged = [line for line in lines if line["stage"] == stage.name]
        losses = [line["loss"] for line in logged]
        last = losses[-max(1, len(losses) // 10) :]
        tokens = job.batch_tokens // stage.length * stage.length * stage.steps
        # From the logged steps: positions that were seen, not those that could have been.
        row = {"name": stage.name, "length": stage.length, "reach": max(line["reach"] for line in logged), "steps": stage.steps}
        stage_rows.append(row | {"tokens": tokens, "loss": sum(last) / len(last)})
        if job.strategy.sampling is not None:
            seen = f"Positions up to {row['reach'] - 1} of {stage.reach - 1} were used in sequences of {stage.length} tokens"
            say(f"sampling {job.strategy.sampling.word}: active. {seen}")
    memory = {"plan": fitted.memory.word, "exact": fitted.memory.is_exact, **vars(fitted.memory)}
    return {"strategy": strategy, "memory": memory, "budget": _budget(model, fitted, lines, origin), "stages": stage_rows, "data": data}


def _proof_lines(job: Job, proof: dict[str, Any]) -> Iterator[str]:
    attention = proof["attention"]
    if attention["word"] != "full":
        yield (
            f"attention {attention['word']}: active. {attention['pairs_ratio']:.1%} of the pairs of full attention at length "
            f"{attention['length']}; matches its definition to {attention['output_error']:.0e}"
        )
    word = job.strategy.position.word
    if "table" in proof:
        table = proof["table"]
        made = f"A table of {table['length']} positions made of {table['original_length']}"
        yield f"position {word}: active. {made}; matches the closed form to {table['row_error']:.0e}"
    if "slopes" in proof:
        slopes, word = proof["slopes"], proof["position"]
        yield (
            f"position {word}: active. {len(slopes)} slopes {slopes[0]:.3g} … {slopes[-1]:.3g} per token, "
            f"the model's own positions are switched off; matches its definition to {attention['output_error']:.0e}"
        )
    if "frequencies" not in proof:
        if "rope_parameters" in proof:
            yield f"position {word}: unchanged from the checkpoint ({proof['rope_parameters']['rope_type']})"
        return
    frequencies = proof["frequencies"]
    yield (
        f"position {word}: active. {len(frequencies)} frequencies {frequencies[0]:.3g} … {frequencies[-1]:.3g} rad/token, "
        f"attention factor {proof['attention_factor']:.4g}; frequencies match the closed form to {proof['frequency_error']:.0e}, "
        f"cosines to {proof['angle_error']:.0e}"
    )


def _budget(model: LanguageModel, fitted: Fit, lines: Lines, origin: Origin) -> dict[str, Any]:
    tokens = fitted.progress.tokens - (origin.metrics[-1]["tokens"] if origin.metrics else 0)
    return {
        "tokens": tokens,
        "steps": fitted.progress.step - (origin.metrics[-1]["step"] if origin.metrics else 0),
        "seconds": fitted.progress.seconds,
        "tokens_per_second": tokens / fitted.progress.seconds,
        "peak_memory_bytes": max(line["peak_memory_bytes"] for line in lines),
        "parameters": model.num_parameters(),
        "trained_parameters": sum(p.numel() for p in model.parameters()),
        "optimizer_state_bytes": fitted.optimizer_state_bytes,
        "base": origin.budget,
    }


def _measure(
    job: Job, model: LanguageModel, setting: Setting, origin: Origin, directory: RunDirectory, results: dict[str, Any], interrupt: Interrupt
) -> None:
    """Runs all evaluations after the extension, before it, and extended but not trained. Writes each result immediately."""
    done = results.setdefault("measured", [])
    samples = Samples(directory.samples)

    def tick(text: str) -> None:
        if interrupt.requested:
            raise Stopped(f"stopped by {interrupt.requested} in the evaluation; run the same command to resume")

    for row in ("after", "before", "untuned"):
        left = [e for e in job.evaluations if e.is_measured and f"{e.word}/{row}" not in done]
        if not left or (row != "after" and not origin.is_trained) or (row == "untuned" and not job.strategy.acts_untrained):
            continue
        if row != "after":
            model = origin.build(job)
        if row == "untuned":
            model.extend(job.strategy, setting.original_length, setting.target_length)
        if row != "before":
            model.attend(job.strategy.measured_attention, setting.original_length, setting.target_length)
        for evaluation in left:
            say(
                f"measuring {evaluation.word}, {row} the extension"
                if row != "untuned"
                else f"measuring {evaluation.word}, extended but not trained"
            )
            of_row = replace(setting, samples=samples.part(evaluation.word, row))
            add_row(results[evaluation.word], row, run_evaluation(evaluation, model, of_row, tick))
            done.append(f"{evaluation.word}/{row}")
            directory.write_results(results)
    for evaluation in job.evaluations:
        results[evaluation.word] |= evaluation.conclude(samples, setting)
    directory.write_results(results)


def _check_tuning(job: Job, vocab_size: int) -> None:
    """Raises `ConfigError` before the base is trained if the tuning cannot be applied to the model."""
    import torch

    if job.model.fresh:
        with torch.device("meta"), inside("tuning"):
            job.tuning.apply(job.model.build(vocab_size, job.seed), job.seed)


def _warn_of_lost_positions(job: Job, model: LanguageModel) -> None:
    position = job.strategy.position
    if position.from_the_start and not job.model.fresh and model.position.word != position.word:
        warn(f"{position.word} replaces the positions that the checkpoint was trained with, which needs long training")


def warn_of_slow_precision(precision: str, device: torch.device) -> None:
    """Warns if bfloat16 is computed in software, where a step may take a hundred times as long as in float32."""
    import torch

    if precision == "bf16" and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        warn("precision=bf16: this processor has no instructions for bfloat16, which takes far longer than precision=fp32 here")


def _tune(job: Job, model: LanguageModel) -> None:
    with inside("tuning"):
        job.tuning.apply(model, job.seed)
    if adapters := job.tuning.adapters(model):
        trained = f"{sum(p.numel() for p in model.parameters()):,} of {model.num_parameters():,} parameters are trained"
        where = f"{adapters['layers']} layers ({', '.join(adapters['targets'])})"
        say(f"tuning {job.tuning.word}: rank {adapters['rank']} on {where}, {trained}")


def _check_tokens(job: Job, corpus: Corpus) -> None:
    longest = job.strategy.target_length
    if job.strategy.sampling is not None:
        # Sequences have at most the original length. A checkpoint of the hub is opened later.
        longest = min(longest, job.model.original_length or 1)
    if len(corpus.train) < longest + 1:
        rule = f"a sequence needs {longest + 1} tokens, the training text has {len(corpus.train)}"
        raise ConfigError("context.target_length", job.strategy.target_length, rule, "use a shorter length or more text")
