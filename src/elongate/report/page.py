"""The page of one run, `report.html`, with its figures and CSV files, from `results.json` and `metrics.jsonl`."""

from __future__ import annotations

import base64
import csv
import json
import math
import re
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from elongate.atomic import written_aside
from elongate.evaluation.presentation.numbers import plain
from elongate.evaluation.presentation.presentation import Presentation
from elongate.evaluation.presentation.section import Column, Figure, Section
from elongate.report.canvas import png, save
from elongate.report.figures import draw, training_figure
from elongate.report.table import budget_facts
from elongate.report.verdict import verdict


def write_report(directory: Path, evaluations: Sequence[Presentation]) -> dict[str, dict[str, Path]]:
    """Write the page, figures and CSV files of the evaluations. Returns images and tables by name."""
    results = json.loads((directory / "results.json").read_text(encoding="utf-8"))
    measured = [evaluation for evaluation in evaluations if evaluation.word in results]
    sections = [section for evaluation in measured for section in evaluation.sections(results)]
    images: dict[str, Path] = {}
    tables: dict[str, Path] = {}
    for figure in (figure for section in sections for figure in section.figures if figure.file):
        images[figure.file] = directory / f"{figure.file}.png"
        save(draw(figure.drawing), images[figure.file])
    for evaluation in measured:
        if (table := evaluation.csv(results[evaluation.word])) is not None:
            tables[evaluation.word] = directory / f"{evaluation.word}.csv"
            write_csv(tables[evaluation.word], table.header, table.lines)
    with written_aside(directory / "report.html") as aside:
        aside.write_text(report_html(directory, results, sections, verdict(results, evaluations), images), encoding="utf-8")
    return {"images": images, "tables": tables}


def write_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    """Writes a CSV file; None is an empty cell."""
    with written_aside(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(lines)


def report_html(
    directory: Path, results: dict[str, Any], sections: Sequence[Section], sentences: Sequence[str], images: dict[str, Path]
) -> str:
    """The page of a run; `images` are the figures that have files."""
    metrics_file, config_file = directory / "metrics.jsonl", directory / "config.yaml"
    metrics = [json.loads(line) for line in metrics_file.read_text().splitlines()] if metrics_file.exists() else []

    def source(figure: Figure) -> str:
        return data_uri(images[figure.file].read_bytes() if figure.file else png(draw(figure.drawing)))

    return render(
        "run.html.jinja",
        name=directory.name,
        results=results,
        sentences=sentences,
        proof=proof_facts(results),
        adapters=plain(results.get("strategy", {}).get("adapters", {})),
        frequencies=frequency_lines(results),
        headings=[(title, list(group)) for title, group in groupby(sections, lambda section: section.title)],
        source=source,
        training=data_uri(png(training_figure(metrics))) if metrics else None,
        followed=followed_sentence(results),
        budget=budget_facts(results["budget"]) if "budget" in results else None,
        provenance=provenance_facts(results),
        config=config_file.read_text(encoding="utf-8") if config_file.exists() else None,
    )


def render(template: str, **values: Any) -> str:
    """A page from a template of this folder; everything put into it is escaped."""
    return _templates().get_template(template).render(**values)


@cache
def _templates() -> Any:
    """Jinja's environment, which keeps compiled templates for further pages, such as those of a sweep."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = unbroken
    environment.filters["inline"] = inline
    environment.filters["groups"] = groups
    return environment


def unbroken(text: str) -> str:
    """The text with `512-1024` and `1.64 ± 0.02` each kept on one line."""
    return re.sub(r"(?<=\d)-(?=\d)", "\N{NON-BREAKING HYPHEN}", text).replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")


def inline(text: str) -> Any:
    """The text, escaped, with `code` between backticks as an element."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))  # escaped before


def groups(columns: Sequence[Column]) -> list[tuple[str, int, bool]]:
    """Titles over neighbouring columns, the number of columns, and whether a line begins there."""
    grouped = [(title, list(group)) for title, group in groupby(columns, lambda column: column.group)]
    return [(title, len(group), group[0].edge) for title, group in grouped]


def data_uri(image: bytes) -> str:
    """A PNG image as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def proof_facts(results: dict[str, Any]) -> list[tuple[str, str]]:
    """What was verified on the built model; the frequencies have a table of their own."""
    proof = results.get("strategy", {}).get("proof", {})
    return [(name.replace("_", " "), plain(value)) for name, value in proof.items() if name != "frequencies"]


def followed_sentence(results: dict[str, Any]) -> str | None:
    """How often the model was measured during the training, which checkpoint was kept, and whether the training stopped early."""
    if (followed := results.get("followed")) is None:
        return None
    steps, planned = followed["steps"], followed["planned_step"]
    sentence = f"Measured {len(steps)} times during the training, on a small sample of held-out documents."
    if (best := followed["best_step"]) is not None:
        figure = followed["figures"][followed["kept"]][steps.index(best)]
        sentence += f" The results are those of step {best}, which has the lowest {followed['kept']}, {figure:.3f}."
    if followed["stopped_early"]:
        sentence += f" The training stopped early, after step {steps[-1]} of {planned}."
    return sentence


def provenance_facts(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Command, versions, device and date, as far as the run recorded them."""
    return [(name.replace("_", " "), plain(value)) for name, value in results.get("provenance", {}).items()]


def frequency_lines(results: dict[str, Any]) -> list[tuple[int, str, str, str]]:
    """Pair of dimensions, frequency, wavelength in tokens and turns over the target length, as built."""
    strategy = results.get("strategy", {})
    frequencies = strategy.get("proof", {}).get("frequencies", [])
    return [
        (
            pair,
            f"{frequency:.4g}",
            f"{2 * math.pi / frequency:,.1f}" if frequency else "none",
            f"{strategy['target_length'] * frequency / (2 * math.pi):.3g}",
        )
        for pair, frequency in enumerate(frequencies)
    ]
