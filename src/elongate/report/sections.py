"""The sections of `results.json` as estimates: losses by bin of positions, needle figures by length."""

from __future__ import annotations

import math
from typing import Any

from elongate.report.estimate import Estimate

ROWS = ("before", "untuned", "after")
AS_TRAINED = "as trained"
RETRIEVAL_MEASURES = {"preferred": "preferred", "exact_match": "written exactly", "named": "named"}
NEEDLE_MEASURES = ("log_probability", "margin", "exact_match")

Bin = tuple[int, int]  # start and end in tokens, the end not included


def rows_of(section: dict[str, Any]) -> list[str]:
    """The rows that were computed, in the order of a run."""
    return [row for row in ROWS if row in section]


def bins_of(part: dict[str, Any]) -> list[Bin]:
    """The bins of a part of the curve (`table` or `fine`)."""
    return list(zip(part["edges"][:-1], part["edges"][1:], strict=True))


def losses_of(part: dict[str, Any], row: str) -> dict[Bin, Estimate]:
    """Loss in nats by bin, without bins that no document reaches; empty for a row that was not computed."""
    if row not in part:
        return {}
    cells = zip(bins_of(part), part[row]["loss"], part[row]["standard_error"], strict=True)
    return {bin_: Estimate(loss, known(error)) for bin_, loss, error in cells if known(loss) is not None}


def needle_of(needle: dict[str, Any], row: str, measure: str) -> dict[int, Estimate]:
    """A needle figure by length, averaged over the depths, whose samples are independent; without lengths that could not be read."""
    if row not in needle:
        return {}
    by_length = zip(needle["lengths"], needle[row][measure], needle[row][f"{measure}_standard_error"], strict=True)
    estimates = {length: mean_of_cells([known(cell) for cell in cells], errors) for length, cells, errors in by_length}
    return {length: estimate for length, estimate in estimates.items() if estimate is not None}


def retrieval_rows(retrieval: dict[str, Any]) -> list[str]:
    """The rows that were computed, in the order of a run."""
    return rows_of(retrieval[retrieval["tasks"][0]])


def retrieval_lines(retrieval: dict[str, Any]) -> list[dict[str, Any]]:
    """One line for each task and row, all tasks together last: the shares by length, and how far they go."""
    return [
        {"task": task, "row": row} | {name: retrieval[task][row][name] for name in (*retrieval["measures"], "effective_length")}
        for task in retrieval_tasks(retrieval)
        for row in retrieval_rows(retrieval)
    ]


def retrieval_tasks(retrieval: dict[str, Any]) -> list[str]:
    return [*retrieval["tasks"], *(["all"] if "all" in retrieval else [])]


def retrieval_costs(retrieval: dict[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """Of all tasks, by row: a line for each length of seconds, tokens/s, FLOPs, memory, and seconds for each right answer."""
    task = retrieval_tasks(retrieval)[-1]
    return [
        (row, [_costs(*pair) for pair in zip(retrieval["lengths"], retrieval[task][row]["costs"], strict=True)])
        for row in retrieval_rows(retrieval)
    ]


def _costs(length: int, cost: dict[str, float | None]) -> list[str]:
    seconds, speed, flops, memory, right = (cost[name] for name in RETRIEVAL_COSTS)
    if seconds is None or speed is None or flops is None or memory is None:
        return [str(length), *["–"] * 5]
    return [
        str(length),
        duration(seconds),
        f"{speed:,.0f}",
        f"{flops:.2e}",
        mebibytes(memory),
        "none is right" if right is None else duration(right),
    ]


RETRIEVAL_COSTS = ("seconds", "tokens_per_second", "flops", "peak_memory_bytes", "seconds_per_right")


def tables_by_length(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Perplexity, the gain of context and their like: a title, what it is, lengths, and lines of a row, its figure and a cell a length."""
    tables = []
    if "perplexity" in results:
        part = results["perplexity"]
        lines = [(row, name, _cells(part[row][key], digits)) for row in rows_of(part) for key, name, digits in _PERPLEXITY]
        told = f"Form {part['form']}: {_FORMS[part['form']].format(part['stride'])}, over {part['n']} documents."
        tables.append({"title": "Perplexity", "told": told, "lengths": part["lengths"], "lines": lines})
    if "context_gain" in results:
        part = results["context_gain"]
        lines, effective = [], []
        for row in rows_of(part):
            halves = [None if ends is None else (ends[1] - ends[0]) / 2 for ends in part[row]["gain_interval"]]
            lines += [(row, "nats", _cells(part[row]["gain"], 3)), ("", "± 95%", _cells(halves, 3))]
            if length := part[row]["effective_context"]:
                low, high = part[row]["effective_context_interval"] or (None, None)
                effective.append(f"{row} {length}{f' (95%: {low:g} to {high:g})' if low else ''}")
        told = (
            f"What the whole context tells better than the last tokens of it: of {part['scored']} tokens that end {part['n']} documents. "
            f"The effective context is the shortest beyond which no longer one tells {part['negligible']} nats more: "
            f"{', '.join(effective) or 'none'}."
        )
        tables.append({"title": "Gain of context", "told": told, "lengths": part["lengths"], "lines": lines})
    if "pseudo_perplexity" in results:
        part = results["pseudo_perplexity"]
        lines = [
            (row, name, _cells([figure(part[row], i) for i in range(len(part["lengths"]))], digits))
            for row in rows_of(part)
            for name, figure, digits in _PSEUDO
        ]
        told = (
            f"Tokens of {part['n']} documents, {len(part['positions'][0])} of each, hidden one by one and told from all others. "
            "The edges are the first and the last of them, the middle the two between which it lies."
        )
        tables.append({"title": "Pseudo-perplexity", "told": told, "lengths": part["lengths"], "lines": lines})
    if "longppl" in results:
        part = results["longppl"]
        lines = [(row, name, _cells([part[row][key]], digits)) for row in rows_of(part) for key, name, digits in _LONGPPL]
        whose = f"by {part['evaluator']}, for all rows" if part["evaluator"] else "by each row for itself, so that rows tell different ones"
        told = (
            f"Perplexity of the key tokens of {part['n']} documents: those that the whole context makes likelier by {part['min_gain']:g} "
            f"nats than at most {part['short_length']} tokens do, and that it tells with a loss below {part['max_loss']:g}; chosen {whose}."
        )
        tables.append({"title": "LongPPL", "told": told, "lengths": [part["length"]], "lines": lines})
    return tables


def _at(row: dict[str, Any], i: int, place: int) -> float | None:
    return None if row["by_edge"][i] is None else row["by_edge"][i][place]


_PSEUDO = (
    ("pseudo-perplexity", lambda row, i: row["pseudo_perplexity"][i], 2),
    ("nats", lambda row, i: row["loss"][i], 3),
    ("± standard error", lambda row, i: row["standard_error"][i], 3),
    ("nats at the edges", lambda row, i: _at(row, i, 0), 3),
    ("nats in the middle", lambda row, i: _at(row, i, -1), 3),
)
_LONGPPL = (
    ("longppl", "LongPPL", 2),
    ("loss", "nats", 3),
    ("standard_error", "± standard error", 3),
    ("key_tokens", "key tokens", 0),
    ("perplexity", "perplexity of all there", 2),
)
_PERPLEXITY = (
    ("perplexity", "perplexity", 2),
    ("loss", "nats", 3),
    ("standard_error", "± standard error", 3),
    ("bits_per_byte", "bits per byte", 3),
)
_FORMS = {
    "same_tokens": "the last {} tokens of each text, told from texts of each length",
    "strided": "windows of each length, {} tokens apart, every token scored once",
    "window_mean": "the mean of the means of windows of each length, {} tokens apart",
}


def _cells(values: list[float | None], digits: int) -> list[str]:
    return ["–" if value is None else f"{value:,.{digits}f}" for value in values]


def mean_of_cells(cells: list[float | None], errors: list[float | None]) -> Estimate | None:
    """None unless every cell was measured: means over different depths would not be comparable."""
    values = [cell for cell in cells if cell is not None]
    if len(values) < len(cells):
        return None
    finite = [error for error in map(known, errors) if error is not None]
    error = math.hypot(*finite) / len(cells) if len(finite) == len(cells) else None
    return Estimate(sum(values) / len(values), error)


def figures_of(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The sections that list their figures by name, a value and an error in each row: tasks on text."""
    return {name: section for name, section in results.items() if isinstance(section, dict) and "figures" in section}


def figure_of(section: dict[str, Any], row: str, figure: str) -> Estimate | None:
    """None where no sample could be read."""
    value = known(section[row].get(figure))
    return None if value is None else Estimate(value, known(section[row][f"{figure}_standard_error"]))


def harness_rows(harness: dict[str, Any]) -> list[str]:
    return rows_of(harness[harness["tasks"][0]])


def harness_lines(harness: dict[str, Any]) -> list[tuple[str, str, list[Estimate | None]]]:
    """A task or group of the lm-evaluation-harness, one of its figures, and a cell a row; no figure where no row could be measured."""
    lines = []
    for task in harness["tasks"]:
        rows = [harness[task][row] for row in harness_rows(harness)]
        keys = dict.fromkeys(key for row in rows for key in row if key != "n" and not key.endswith("_standard_error"))
        lines += [(task, figure, [figure_of(harness[task], row, figure) for row in harness_rows(harness)]) for figure in keys or [""]]
    return lines


def known(value: float | None) -> float | None:
    """The value, or None where it could not be computed (null or NaN: an empty bin, an error of one sample)."""
    return value if value is not None and math.isfinite(value) else None


def span(bin_: Bin) -> str:
    return f"{bin_[0]}-{bin_[1]}"


def region(bin_: Bin, original_length: int, target_length: int) -> str:
    """Which lengths a bin lies beyond, in words."""
    if bin_[0] >= target_length:
        return f"beyond target ({target_length})"
    if bin_[0] >= original_length:
        return f"beyond original ({original_length})"
    return AS_TRAINED


def mebibytes(count: float) -> str:
    amount = count / 2**20
    return f"{amount:,.0f} MiB" if amount >= 10 else f"{amount:.2g} MiB"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
