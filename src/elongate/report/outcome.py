"""The verdict of a sweep in sentences computed from the figures: which strategy won, by how much, how certain that is and at what cost.

The winner is compared with the runner-up. If the sweep contains the strategy that changes nothing (`context=none`), the winner is also
compared with it, including how far back the text is used and the costs.
"""

from __future__ import annotations

from collections.abc import Callable

from elongate.evaluation.presentation.drawings import Reach
from elongate.evaluation.presentation.estimate import LEVEL
from elongate.evaluation.presentation.numbers import mebibytes
from elongate.report.criterion import Criterion
from elongate.report.ranking import Comparison, Row
from elongate.report.reach import REACHES

SAME_RATIO = 0.01  # costs that differ by less are called about the same


def outcome(comparison: Comparison) -> list[str]:
    """The sentences; empty if nothing decides, for example with a single strategy."""
    criterion = comparison.criterion
    if criterion is None or comparison.rows[0].mark != "best":
        return []
    best, *others = (row for row in comparison.rows if row.estimates[criterion.column.key])
    if all(row.mark == "identical" for row in others):
        return [f"All {len(others) + 1} strategies have the same results to the last bit: what differs between them has no effect here."]
    reference = unchanged(others) or others[0]
    found = [lead(best, others, comparison), runners_up(others, reference, criterion)]
    found += [share_of_bases(best, others[0], comparison), reach_sentence(best, reference), cost_sentence(best, reference)]
    return [sentence for sentence in found if sentence]


def unchanged(rows: list[Row]) -> Row | None:
    """The strategy that changes nothing; None if there is none, or several that differ in other settings."""
    plain = [row for row in rows if row.group.first.results["strategy"]["context"] == "none"]
    return plain[0] if len(plain) == 1 else None


def lead(best: Row, others: list[Row], comparison: Comparison) -> str:
    """Which strategy is best by the criterion, and whether that is certain."""
    criterion = comparison.criterion
    assert criterion is not None
    figure = best.estimates[criterion.column.key]
    # A base with a table of positions may not reach that far.
    before = criterion.before(best.group)
    unit = f" {criterion.unit}" if criterion.unit == "nats" else ""
    spec = criterion.column.spec
    what = f"{criterion.praise} of {len(others) + 1} strategies at {criterion.place}, {format(figure, spec)}{unit}"
    earlier = f" (before the extension: {before.mean:{spec}})" if before else ""
    if any(row.mark == "not distinguishable" for row in others):
        return f"There is no clear winner. {best.group.label} has {what}{earlier}, but the difference may be chance."
    sure = comparison.is_fair and all(is_sure(row) or row.mark for row in others)
    return f"{best.group.label} {'won' if sure else 'is ahead'}: it has {what}{earlier}."


def is_sure(row: Row) -> bool:
    """Whether the row is worse than the best by more than chance."""
    return row.difference is not None and row.difference.standard_error is not None and row.difference.positive


def runners_up(others: list[Row], reference: Row, criterion: Criterion) -> str:
    """How far others are behind: those not distinguishable from the best, the next one, and the reference."""
    equal = [row.group.label for row in others if row.mark == "identical"]
    close = [row for row in others if row.mark == "not distinguishable"]
    behind = [row for row in others if not row.mark]
    parts = [f"Identical to it, to the last bit: {', '.join(equal)}"] if equal else []
    if close:
        parts.append(f"Not distinguishable from it: {', '.join(f'{row.group.label} ({distance(row, criterion)})' for row in close)}")
    if behind:
        sure = (
            f"a difference beyond chance ({LEVEL:.0%}, Student's t over seeds)"
            if is_sure(behind[0])
            else "but one seed does not show whether that is chance"
        )
        parts.append(f"{'Next' if close else 'The runner-up'} is {behind[0].group.label}, {distance(behind[0], criterion)}, {sure}")
    if reference in behind[1:]:
        parts.append(f"{reference.group.label} is {distance(reference, criterion)}")
    return f"{'. '.join(parts)}."


def distance(row: Row, criterion: Criterion) -> str:
    """How much higher the loss of the row is than that of the best, or how much lower its share of exact matches."""
    assert row.difference is not None
    unit = f" {criterion.unit}" if criterion.unit else ""
    worse, better = ("below", "above") if criterion.higher_is_better else ("above", "below")
    if row.difference.mean < 0:
        # Possible because rows are ranked by all seeds and compared over common seeds.
        return f"{row.difference * -1:.3f}{unit} {better} it over the common seeds"
    return f"{f'{row.difference:.3f}' if row.difference.mean >= 0.0005 else 'less than 0.001'}{unit} {worse} it"


def share_of_bases(best: Row, next_best: Row, comparison: Comparison) -> str:
    """How much of the difference was there before the extension; empty if both extend the same base."""
    criterion = comparison.criterion
    if criterion is None or comparison.is_fair or next_best.difference is None:
        return ""
    before = [criterion.before(row.group) for row in (next_best, best)]
    if before[0] is None or before[1] is None:
        return ""
    there = (before[0].mean - before[1].mean) * (-1 if criterion.higher_is_better else 1)
    unit = f" {criterion.unit}" if criterion.unit else ""
    difference = f"{next_best.difference.mean:.3f}{unit} to {next_best.group.label}"
    return f"Of the difference of {difference}, {there:.3f} were there before the extension."


def reach_sentence(best: Row, reference: Row) -> str:
    """How far back both use the text, for each measure of both that is above 0 for at least one; empty without any."""
    both = {key: (reach, reference.reaches[key]) for key, reach in best.reaches.items() if key in reference.reaches}
    able = {key: pair for key, pair in both.items() if any(reach.length for reach in pair)}
    parts = [f"{REACHES[key]} {reach_text(ours)} against {reach_text(theirs)}" for key, (ours, theirs) in able.items()]
    return f"How far back it uses the text, in tokens, compared with {reference.group.label}: {'; '.join(parts)}." if parts else ""


def reach_text(reach: Reach) -> str:
    """`512 (interval 256–1,024)`, without an interval of no width."""
    return f"{reach.text} (interval {reach.interval_text})" if reach.interval_text else reach.text


def cost_sentence(best: Row, reference: Row) -> str:
    """Seconds of training and peak memory of both."""
    seconds = cost_text(best, reference, "seconds", lambda seconds: f"{seconds:,.1f} s")
    memory = cost_text(best, reference, "peak_memory_bytes", mebibytes)
    return f"Costs compared with {reference.group.label}: training {seconds}; peak memory {memory}."


def cost_text(best: Row, reference: Row, key: str, text: Callable[[float], str]) -> str:
    """`49.1 s against 46.3 s (6% more)`. Every finished run has its costs."""
    ours, theirs = best.estimates[key], reference.estimates[key]
    assert ours is not None
    assert theirs is not None
    ratio = ours.mean / theirs.mean - 1
    difference = ours - theirs
    by_chance = difference.standard_error is not None and not difference.positive and not (difference * -1).positive
    change = f"{abs(ratio):.0%} {'more' if ratio > 0 else 'less'}"
    size = "about the same" if abs(ratio) < SAME_RATIO else f"{change}, which may be chance" if by_chance else change
    return f"{text(ours.mean)} against {text(theirs.mean)} ({size})"
