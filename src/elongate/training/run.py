"""One run in five phases: prepare, check, extend, measure, report.

Each phase leaves its results in the run directory, and the next start skips what is done. A run may therefore be killed
at any moment and resumed by the same command.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from elongate.console import say, warn
from elongate.errors import ConfigError, Stopped, inside
from elongate.evaluation.evaluation import Setting
from elongate.models.theta_bound import theta_warning
from elongate.report.page import write_report
from elongate.report.scalars import scalars
from elongate.tracking.tracker import Tracker
from elongate.training.base import Origin, find_origin
from elongate.training.device import check_precision, find_device
from elongate.training.evidence import evidence_lines, sampling_lines
from elongate.training.export import export_run
from elongate.training.interrupt import Interrupt
from elongate.training.job import Job
from elongate.training.measure import measure
from elongate.training.model_card import write_card
from elongate.training.progress import describe_steps, forecast
from elongate.training.results import (
    TrainingSections,
    budget_section,
    data_section,
    memory_section,
    provenance_section,
    stage_row,
    strategy_section,
)
from elongate.training.run_directory import RunDirectory
from elongate.training.search import with_search_result
from elongate.training.session import Session, tracked
from elongate.training.teaching import open_checkpoint, with_teacher
from elongate.training.text import Text, load_text
from elongate.training.validate import evaluation_setting, headers, with_corpus, with_model

if TYPE_CHECKING:
    from elongate.models.language_model import LanguageModel


def run(job: Job, directory: RunDirectory) -> dict[str, Any]:
    """Does what is not done yet and returns the results. Call with the directory's lock. Raises `ElongateError`."""
    directory.repair()
    if (results := _finished_results(job, directory)) is not None:
        return results
    say(describe_steps(job))
    text, known_headers = prepare(job)
    with Interrupt() as interrupt, tracked(job, directory) as tracker:
        session = Session(directory, tracker, interrupt)
        extension = check(job, text, known_headers, session)
        # Claim the run directory only now, so a rejected configuration leaves nothing behind.
        directory.claim(job.config, job.overwrite)
        record_inputs(directory, extension.job, text)
        if job.training.resume_from is not None:
            directory.discard_results()
            record_inputs(directory, extension.job, text)
        extension = search(extension, text, session)
        results = extension.headers | extend(extension, text, session)
        export_run(extension.job, extension.model, text.tokenizer, directory, results)
        measure(extension.job, extension.model, extension.setting, extension.origin, session, results)
        report(job, results, directory, tracker)
    # Set this last: a finished run is never modified again.
    results["finished"] = True
    directory.write_results(results)
    if interrupt.requested:
        raise Stopped(f"stopped by {interrupt.requested} after the run finished; run the same command to see its results")
    return results


def prepare(job: Job) -> tuple[Text, dict[str, Any]]:
    """Loads the text, and checks what can be checked before a base is trained. Raises `ConfigError`.

    Returns the text and the headers of the evaluations, which of a checkpoint are not known yet.
    """
    text = load_text(job)
    known_headers = with_corpus(job, text)
    from elongate.models.kernels import require_kernels  # with torch, which reading the text does not need

    device = find_device(job.device)
    require_kernels(job.kernels, device)
    check_precision(job.precision, device)
    return text, known_headers


@dataclass(frozen=True)
class Extension:
    """A model and a job that fit each other, before the training."""

    job: Job  # bound to the model
    origin: Origin
    model: LanguageModel
    setting: Setting  # of the evaluations
    headers: dict[str, Any]  # of the evaluations, by their words

    @property
    def original_length(self) -> int:
        """Tokens that the model was trained on."""
        return self.setting.original_length


def check(job: Job, text: Text, known_headers: dict[str, Any], session: Session) -> Extension:
    """Opens the model, training its base if necessary, and checks what depends on it. Raises `ConfigError`."""
    teacher = open_checkpoint(job, text.tokenizer)
    following = forecast(job, known_headers, has_base=True, steps=job.steps)
    origin = find_origin(job, text, following, session.interrupt)
    model = origin.build(job)
    job, original_length = with_model(job, model, text.corpus)
    _warn_of_lost_positions(job, model)
    _warn_of_router_loss(model)
    if line := theta_warning(model, job.strategy, original_length):
        warn(line)
    weights = dict(model.network.named_parameters())
    _tune(job, model)
    job = with_teacher(job, teacher, origin, model, original_length, weights)
    setting = evaluation_setting(job, text, original_length)
    return Extension(job, origin, model, setting, headers(job.evaluations, setting))


def record_inputs(directory: RunDirectory, job: Job, text: Text) -> None:
    """Writes hashes of the text and the checkpoints to the results. Raises `ConfigError` if one changed since the first start."""
    results = directory.read_results()
    inputs = {"data": text.corpus.fingerprint, "model": job.model.fingerprint}
    if (teacher := job.objective.teacher_source) is not None:
        inputs["teacher"] = teacher.fingerprint
    for key, fingerprint in results.get("inputs", inputs).items():
        if fingerprint != inputs[key]:
            what = {"data": "the text or the tokenizer", "model": "the checkpoint", "teacher": "the teacher"}[key]
            rule = f"{what} changed since the run {directory.path} started"
            raise ConfigError(key, "", rule, "restore it, use another name=, or start over with overwrite=true")
    directory.write_results(results | {"inputs": inputs})


def search(extension: Extension, text: Text, session: Session) -> Extension:
    """Returns the extension with the position that a search on the model has found, if it needs one."""
    job = with_search_result(extension.job, extension.model, extension.original_length, text.corpus, session)
    return replace(extension, job=job)


def extend(extension: Extension, text: Text, session: Session) -> dict[str, Any]:
    """Trains the extension and merges its adapters. Returns the sections of the results that exist so far."""
    from elongate.models.precision import widen_frozen_weights
    from elongate.training.loop import Course, fit, stage_sequences

    job, model, origin, original_length = extension.job, extension.model, extension.origin, extension.original_length
    stages = job.strategy.stages(original_length, job.steps)
    following = forecast(job, extension.headers, origin.is_trained)
    course = Course(original_length, stages, text.corpus.train, origin.metrics, following, extension.setting)
    fitted = fit(job, model, course, session)
    job.objective.close()
    evidence, target_length = fitted.evidence, job.strategy.target_length
    if stages[-1].reach != target_length:
        # The model is measured and exported for the target, which no stage has reached.
        evidence = model.extend(job.strategy, original_length, target_length)
    metrics = session.directory.read_metrics()[len(origin.metrics) :]
    counts = [stage.steps * (job.batch_tokens // stage.length) for stage in fitted.stages]
    usages = [stage_sequences(job, course, number).usage(count) for number, count in enumerate(counts)]
    sections = TrainingSections(
        strategy=strategy_section(job, model, original_length, evidence),
        memory=memory_section(fitted.memory),
        budget=budget_section(model, fitted, metrics, origin),
        stages=[stage_row(stage, job.batch_tokens, metrics) for stage in fitted.stages],
        data=data_section(job, text.corpus, fitted.progress.consumed, usages),
        provenance=provenance_section(job, model.device),
    )
    for line in (*evidence_lines(job.strategy, evidence), *sampling_lines(job.strategy, fitted.stages, sections.stages)):
        say(line)
    earlier = session.directory.read_results()
    results = earlier | sections.to_json()
    if fitted.following.lines:
        results["followed"] = fitted.following.section(planned=course.spans()[-1].last)
    results["provenance"] = earlier.get("provenance", results["provenance"])
    session.directory.write_results(results)
    widen_frozen_weights(model.network)
    job.tuning.merge(model)
    return results


def report(job: Job, results: dict[str, Any], directory: RunDirectory, tracker: Tracker) -> None:
    """Writes the report and the model card, and sends the results to the tracker."""
    write_card(job, results, directory)
    pages = write_report(directory.path, job.evaluations)
    tracker.report(scalars(results, job.evaluations), pages["images"], pages["tables"])


def _finished_results(job: Job, directory: RunDirectory) -> dict[str, Any] | None:
    """The results of a run that is finished. Raises `ConfigError` if the directory belongs to another run."""
    if job.overwrite:
        return None
    directory.check(job.config)
    results = directory.read_results()
    name = job.training.resume_from
    # A run whose export was removed, or to which an evaluation is added, is continued.
    is_finished = "finished" in results and directory.model.exists() and all(e.word in results for e in job.evaluations)
    if name is not None and (is_finished or not (directory.checkpoints / name).is_dir()):
        rule = f"the run {directory.path} is finished" if is_finished else f"is not a checkpoint in {directory.checkpoints}"
        raise ConfigError("training.resume_from", name, rule, "use {key}=null, or overwrite=true to start over")
    if not is_finished:
        return None
    say(f"{directory.path} is already finished (overwrite=true starts over)")
    if not (directory.path / "report.html").exists():
        write_report(directory.path, job.evaluations)
    if note := job.tracking.describe_finished(directory.path):
        say(note)
    return results


def _warn_of_lost_positions(job: Job, model: LanguageModel) -> None:
    position = job.strategy.position
    if position.from_the_start and not job.model.fresh and model.position.word != position.word:
        warn(f"{position.word} replaces the positions that the checkpoint was trained with, which needs long training")


def _warn_of_router_loss(model: LanguageModel) -> None:
    """Of a mixture of experts, transformers adds a loss that balances the experts if the configuration says so."""
    config = model.config
    if getattr(config, "output_router_logits", False) and (weight := getattr(config, "router_aux_loss_coef", 0)):
        asked = f"output_router_logits=true, router_aux_loss_coef={weight}"
        warn(f"the auxiliary loss of the router, which the checkpoint asks for ({asked}), is not part of the training loss")


def _tune(job: Job, model: LanguageModel) -> None:
    """Adds the adapters, and says how many parameters are trained."""
    with inside("tuning"):
        job.tuning.apply(model, job.seed)
    if job.precision == "bf16":
        from elongate.models.precision import narrow_frozen_weights

        narrow_frozen_weights(model.network)
    if adapters := job.tuning.adapters(model):
        trained = f"{sum(p.numel() for p in model.parameters()):,} of {model.num_parameters():,} parameters are trained"
        where = f"{adapters['layers']} layers ({', '.join(adapters['targets'])})"
        say(f"tuning {job.tuning.word}: rank {adapters['rank']} on {where}, {trained}")
