"""The report of one run: `report.html`, figures and CSV files, drawn from `results.json` and `metrics.jsonl`."""

from __future__ import annotations

import base64
import csv
import json
import math
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elongate.atomic import written_aside
from elongate.report.canvas import png
from elongate.report.figures import draw_curve, draw_needle, draw_retrieval, training_figure
from elongate.report.reach_figures import depths_of_rows, reach_of_rows
from elongate.report.sections import (
    NEEDLE_MEASURES,
    RETRIEVAL_COSTS,
    RETRIEVAL_MEASURES,
    bins_of,
    figure_of,
    figures_of,
    harness_lines,
    harness_rows,
    losses_of,
    needle_of,
    region,
    retrieval_costs,
    retrieval_lines,
    rows_of,
    span,
    tables_by_length,
)
from elongate.report.table import budget_facts
from elongate.report.verdict import verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(directory: Path) -> dict[str, dict[str, Path]]:
    """Writes what the sections of `results.json` give, and returns the images and tables by name, for the trackers."""
    results = json.loads((directory / "results.json").read_text(encoding="utf-8"))
    images: dict[str, Path] = {}
    tables: dict[str, Path] = {}
    if "curve" in results:
        images["curve"], tables["curve"] = directory / "curve.png", directory / "curve.csv"
        draw_curve(results, images["curve"])
        write_csv(tables["curve"], ["row", "start", "end", "loss", "standard_error"], curve_lines(results["curve"]["fine"]))
    if "needle" in results:
        images["needle"], tables["needle"] = directory / "needle.png", directory / "needle.csv"
        draw_needle(results, images["needle"])
        columns = [column for measure in NEEDLE_MEASURES for column in (measure, f"{measure}_standard_error")]
        write_csv(tables["needle"], ["row", "length", "depth", "n", *columns], needle_lines(results["needle"], columns))
    if "retrieval" in results:
        images["retrieval"], tables["retrieval"] = directory / "retrieval.png", directory / "retrieval.csv"
        draw_retrieval(results, images["retrieval"])
        write_csv(tables["retrieval"], retrieval_columns(results["retrieval"]), retrieval_csv_lines(results["retrieval"]))
    with written_aside(directory / "report.html") as aside:
        aside.write_text(report_html(directory, results, images), encoding="utf-8")
    return {"images": images, "tables": tables}


def write_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    with written_aside(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(lines)


def curve_lines(part: dict[str, Any]) -> Iterable[Sequence[Any]]:
    for row in rows_of(part):
        for (start, end), loss, error in zip(bins_of(part), part[row]["loss"], part[row]["standard_error"], strict=True):
            yield row, start, end, loss, error


def needle_lines(needle: dict[str, Any], columns: Sequence[str]) -> Iterable[Sequence[Any]]:
    for row in rows_of(needle):
        for i, length in enumerate(needle["lengths"]):
            for j, depth in enumerate(needle["depths"]):
                yield row, length, depth, needle["n"], *(needle[row][column][i][j] for column in columns)


def retrieval_columns(retrieval: dict[str, Any]) -> list[str]:
    return ["task", "row", "length", "n", *(f"{m}{e}" for m in retrieval["measures"] for e in ("", "_low", "_high")), *RETRIEVAL_COSTS]


def retrieval_csv_lines(retrieval: dict[str, Any]) -> Iterable[Sequence[Any]]:
    for line in retrieval_lines(retrieval):
        figures = retrieval[line["task"]][line["row"]]
        n = retrieval["n"] * (len(retrieval["tasks"]) if line["task"] == "all" else 1)
        for i, length in enumerate(retrieval["lengths"]):
            cells = [(figures[m][i], *(figures[f"{m}_interval"][i] or (None, None))) for m in retrieval["measures"]]
            costs = (figures["costs"][i][name] for name in RETRIEVAL_COSTS)
            yield line["task"], line["row"], length, n, *(value for cell in cells for value in cell), *costs


def report_html(directory: Path, results: dict[str, Any], images: dict[str, Path]) -> str:
    metrics_file, config_file = directory / "metrics.jsonl", directory / "config.yaml"
    metrics = [json.loads(line) for line in metrics_file.read_text().splitlines()] if metrics_file.exists() else []
    return render(
        "run.html.jinja",
        name=directory.name,
        results=results,
        sentences=verdict(results),
        proof=proof_facts(results),
        adapters=plain(results.get("strategy", {}).get("adapters", {})),
        frequencies=frequency_lines(results),
        curve=curve_table(results["curve"]) if "curve" in results else None,
        needle=needle_table(results["needle"]) if "needle" in results else None,
        retrieval=retrieval_lines(results["retrieval"]) if "retrieval" in results else None,
        retrieval_measures=RETRIEVAL_MEASURES,
        retrieval_costs=retrieval_costs(results["retrieval"]) if "retrieval" in results else [],
        by_length=tables_by_length(results),
        tasks=task_tables(results),
        reach=image_of(reach_of_rows(results)),
        depths=image_of(depths_of_rows(results)),
        harness=harness_lines(results["lm_eval"]) if "lm_eval" in results else None,
        harness_rows=harness_rows(results["lm_eval"]) if "lm_eval" in results else [],
        images={name: data_uri(path.read_bytes()) for name, path in images.items()},
        training=data_uri(png(training_figure(metrics))) if metrics else None,
        budget=budget_facts(results["budget"]) if "budget" in results else None,
        config=config_file.read_text(encoding="utf-8") if config_file.exists() else None,
    )


def render(template: str, **values: Any) -> str:
    """A page from a template of this folder; everything put into it is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["estimate"] = lambda value, digits: "–" if value is None else f"{value:,.{digits}f}"
    environment.filters["unbroken"] = unbroken
    return environment.get_template(template).render(**values)


def image_of(figure: Figure | None) -> str | None:
    return data_uri(png(figure)) if figure else None


def unbroken(text: str) -> str:
    """The text with `512-1024` and `1.64 ± 0.02` each kept on one line."""
    return re.sub(r"(?<=\d)-(?=\d)", "\N{NON-BREAKING HYPHEN}", text).replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")


def data_uri(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def proof_facts(results: dict[str, Any]) -> list[tuple[str, str]]:
    """What the strategy proved about the built model; the frequencies have a table of their own."""
    proof = results.get("strategy", {}).get("proof", {})
    return [(name.replace("_", " "), plain(value)) for name, value in proof.items() if name != "frequencies"]


def plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(plain, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


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


def curve_table(curve: dict[str, Any]) -> dict[str, Any]:
    """Regions with their number of columns, the columns that begin one, column names, and a line of cells a row."""
    bins = bins_of(curve["table"])
    names = [region(bin_, curve["original_length"], curve["target_length"]) for bin_ in bins]
    rows = {row: losses_of(curve["table"], row) for row in rows_of(curve["table"])}
    return {
        "regions": [(name, len(list(group))) for name, group in groupby(names)],
        "edges": [index for index in range(1, len(names)) if names[index] != names[index - 1]],
        "columns": [span(bin_) for bin_ in bins],
        "rows": {row: [losses.get(bin_) for bin_ in bins] for row, losses in rows.items()},
    }


def needle_table(needle: dict[str, Any]) -> list[dict[str, Any]]:
    """One line for each length and row, averaged over the depths."""
    return [
        {"length": length, "row": row} | {measure: needle_of(needle, row, measure).get(length) for measure in NEEDLE_MEASURES}
        for length in needle["lengths"]
        for row in rows_of(needle)
    ]


def task_tables(results: dict[str, Any]) -> list[dict[str, Any]]:
    """A table for each task on text: what it was measured on, and a line of figures a row."""
    return [
        {
            "name": name.replace("_", " "),
            "section": section,
            "path": plain(section["path"]),
            "figures": [figure.replace("_", " ") for figure in section["figures"]],
            "signatures": {figure.replace("_", " "): signature for figure, signature in section["signatures"].items()},
            "rows": [
                {"name": row, "n": section[row]["n"], "cells": [figure_of(section, row, figure) for figure in section["figures"]]}
                for row in rows_of(section)
            ],
        }
        for name, section in figures_of(results).items()
    ]
