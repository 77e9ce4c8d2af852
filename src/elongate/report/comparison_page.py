"""The page of a sweep: the verdict, one part per question with its figure and table, and the verification of every strategy."""

from __future__ import annotations

from dataclasses import dataclass, replace

from elongate.evaluation.context_gain import NEGLIGIBLE
from elongate.evaluation.presentation.drawings import Bin
from elongate.evaluation.presentation.estimate import LEVEL, Estimate
from elongate.report import pareto
from elongate.report.canvas import Pen, pen, png
from elongate.report.estimate import mean_over
from elongate.report.figures import strategies_figure
from elongate.report.groups import Group, Run
from elongate.report.measures import COST_COLUMNS, NEEDLE_COLUMNS, REACH_COLUMNS, Column, key_of
from elongate.report.outcome import outcome
from elongate.report.page import data_uri, proof_facts, render
from elongate.report.ranking import Comparison
from elongate.report.reach import margins_by_depth
from elongate.report.reach_figures import depth_figure, reach_figure


@dataclass(frozen=True)
class Part:
    """A part of the page: a heading, a figure, its caption, and a table."""

    title: str
    figure: bytes | None  # PNG
    alt: str
    caption: list[str]  # sentences
    columns: list[Column]  # of the table
    deciding: bool = False  # the table also shows how far each strategy is from the best


def comparison_html(comparison: Comparison, name: str) -> str:
    """The page of the sweep called `name`."""
    parts = [side_by_side, losses, costs, reaches, depths]
    return render(
        "comparison.html.jinja",
        name=name,
        comparison=comparison,
        outcome=outcome(comparison),
        parts=[found for part in parts if (found := part(comparison, pens(comparison))).columns],
        verifications=[(row.group, proof_facts(row.group.first.results)) for row in comparison.rows],
        data_uri=data_uri,
    )


def pens(comparison: Comparison) -> dict[str, Pen]:
    """The pen of each strategy by label, the same in all figures of the page."""
    return {row.group.label: pen(index) for index, row in enumerate(comparison.rows)}


def measured(comparison: Comparison, columns: list[Column]) -> list[Column]:
    """The columns that at least one strategy has a figure for."""
    return [column for column in columns if column in comparison.columns and comparison.has(column)]


def side_by_side(comparison: Comparison, _: dict[str, Pen]) -> Part:
    """The loss that decides the order, how far back the text is used, and the costs, in one table."""
    by_key = {column.key: column for column in comparison.columns}
    wanted = ["effective_context", "needle_margin_at_target", "seconds", "peak_memory_bytes"]
    columns = measured(comparison, [by_key[key] for key in wanted if key in by_key])
    titles = {"needle_margin_at_target": "needle margin at target", "seconds": "seconds of training"}
    columns = [replace(column, title=titles.get(column.key, column.title)) for column in columns]
    if comparison.criterion:
        columns.insert(0, replace(comparison.criterion.column, title=comparison.criterion.name))
    seeds = (
        "Mean over seeds with its standard error; for the effective context, the interval. “≈” marks strategies that cannot be "
        f"distinguished from the best: the {LEVEL:.0%} interval of the difference, by Student's t over common seeds, contains 0."
    )
    caption = [seeds] if comparison.several_seeds else []
    return Part("Side by side", None, "", caption, columns, comparison.criterion is not None)


def losses(comparison: Comparison, _: dict[str, Pen]) -> Part:
    """The `after` curves of all strategies, and the `before` curve if all runs of a seed have the same one."""
    bin_ = comparison.criterion.bin if comparison.criterion else None
    before_key = f"before_{key_of(bin_)}" if bin_ else None
    columns = [column for column in comparison.columns if column.key.startswith("after_") or column.key == before_key]
    curves = {row.group.label: found for row in comparison.rows if (found := row.group.losses("fine", "after"))}
    figure = None
    if curves:
        strategy = comparison.rows[0].group.first.results["strategy"]
        before = shared_before([row.group for row in comparison.rows])
        figure = png(strategies_figure(curves, before, strategy["original_length"], strategy["target_length"]))
    alt = "Loss in nats by position in tokens, one line per strategy; the table below has the figures."
    caption = ["Nats on held-out text, lower is better.", *error_caption(comparison, "A band")]
    return Part("Loss by position after the extension", figure, alt, caption, measured(comparison, columns))


def error_caption(comparison: Comparison, mark: str) -> list[str]:
    """What the band or bar of a figure means; empty without standard errors."""
    return [f"{mark} is ±1 standard error over seeds."] if comparison.several_seeds else []


def shared_before(groups: list[Group]) -> dict[Bin, Estimate]:
    """The mean loss over seeds before the extension; empty if runs of the same seed differ in it."""
    by_seed: dict[int, Run] = {}
    for group in groups:
        for seed, run in group.runs.items():
            known = by_seed.setdefault(seed, run)
            if run.losses("fine", "before") != known.losses("fine", "before"):
                return {}
    return Group("", by_seed).losses("fine", "before")


def costs(comparison: Comparison, pens: dict[str, Pen]) -> Part:
    """The deciding figure against seconds of training."""
    criterion = comparison.criterion
    points: dict[str, tuple[Estimate, Estimate]] = {}
    for row in comparison.rows:
        seconds, figure_of_row = row.estimates["seconds"], row.estimates[criterion.column.key] if criterion else None
        if criterion and seconds and figure_of_row:
            points[row.group.label] = (seconds, criterion.as_cost(figure_of_row))
    figure, caption = None, []
    if criterion and len(points) > 1:
        unit = f" in {criterion.unit}" if criterion.unit == "nats" else ""
        figure = png(pareto.pareto_figure(points, pens, f"{criterion.cost}{unit} at {criterion.place}"))
        caption = [
            pareto.sentences(points, criterion.cost, criterion.unit),
            "Lower is better, further left is cheaper. Seconds are wall time, so they depend on the load of the machine.",
            *error_caption(comparison, "A bar"),
        ]
    alt = "The deciding figure against seconds of training, one point per strategy; the tables have the figures."
    return Part("Quality against cost", figure, alt, caption, measured(comparison, COST_COLUMNS))


def reaches(comparison: Comparison, _: dict[str, Pen]) -> Part:
    """The effective contexts and effective lengths."""
    found = {row.group.label: row.reaches for row in comparison.rows if row.reaches}
    columns = measured(comparison, REACH_COLUMNS)
    if not found:
        return Part("How far back the text is used", None, "", [], columns)
    strategy = comparison.rows[0].group.first.results["strategy"]
    several = comparison.several_seeds
    caption = []
    if any("effective_context" in of for of in found.values()):
        over = "; mean over seeds, and the interval from the lowest to the highest end of theirs" if several else ""
        caption.append(
            f"Effective context: the shortest context beyond which no longer one improves the loss by {NEGLIGIBLE} nats, with its 95% "
            f"interval over documents{over}."
        )
    if any(key != "effective_context" for of in found.values() for key in of):
        over = "; mean over seeds, and the range of the seeds" if several else ""
        caption.append(
            "Retrieval: the largest length up to which the lower end of the 95% interval of the share of right answers stays above the "
            f"threshold; “none” if it is not above it at the shortest length{over}."
        )
    alt = "Horizontal bars of tokens with intervals, one group per strategy; the table below has the figures."
    figure = png(reach_figure(found, strategy["original_length"], strategy["target_length"]))
    return Part("How far back the text is used", figure, alt, caption, columns)


def depths(comparison: Comparison, pens: dict[str, Pen]) -> Part:
    """The margin of the needle by its depth."""
    found = {row.group.label: margins for row in comparison.rows if (margins := group_margins(row.group))}
    lengths = sorted({row.group.first.results["strategy"]["target_length"] for row in comparison.rows if row.group.label in found})
    caption = []
    if found:
        caption = [
            f"A key is hidden at a depth of a text of the target length ({', '.join(map(str, lengths))} tokens) and asked for at its end. "
            "Above 0 the right key is preferred to a wrong one.",
            *error_caption(comparison, "A band"),
            depths_sentence(next(row.group for row in comparison.rows if row.group.label in found)),
        ]
    alt = "The needle's margin in nats by its depth, one line per strategy; the table below has the means over depths."
    figure = png(depth_figure(found, pens)) if found else None
    return Part("Lost in the middle?", figure, alt, caption, measured(comparison, NEEDLE_COLUMNS))


def group_margins(group: Group) -> dict[float, Estimate]:
    """The mean margin over seeds in nats, by depth. Its error is that over seeds; errors over samples are not used."""
    by_seed = [margins_by_depth(run.results, "after") for run in group.runs.values()]
    depths = sorted({depth for margins in by_seed for depth in margins})
    means = {depth: mean_over([margins[depth].mean for margins in by_seed if depth in margins]) for depth in depths}
    return {depth: mean for depth, mean in means.items() if mean}


def depths_sentence(group: Group) -> str:
    """The depths at which the needle is found, by the error over seeds or, with a single seed, over its samples."""
    margins = margins_by_depth(group.first.results, "after") if len(group.runs) == 1 else group_margins(group)
    weakest, strongest = (of(margins, key=lambda depth: margins[depth].mean) for of in (min, max))
    found = [f"{depth:.0%}" for depth, margin in margins.items() if margin.positive and margin.standard_error is not None]
    where = "every depth" if len(found) == len(margins) else f"depths of {', '.join(found)} only" if found else "no depth"
    ends = f"margins from {margins[weakest].mean:z.2f} nats at {weakest:.0%} to {margins[strongest].mean:z.2f} at {strongest:.0%}"
    return f"{group.label} finds the key with {LEVEL:.0%} confidence at {where}: {ends}."
