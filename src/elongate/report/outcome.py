"""Who won a sweep, by how much, how sure that is and at what cost, in sentences computed from the figures.

The winner is held against the runner-up; and where the strategy that changes nothing (`context=none`) is in the sweep, against it, in
what is used of the text and in costs too.
"""

from __future__ import annotations

from collections.abc import Callable

from elongate.evaluation.presentation.drawings import Reach
from elongate.evaluation.presentation.estimate import LEVEL
from elongate.evaluation.presentation.numbers import mebibytes, span
from elongate.report.measures import key_of
from elongate.report.ranking import Comparison, Row
from elongate.report.reach import REACHES

SAME_RATIO = 0.01  # costs that are less apart are called the same


def outcome(comparison: Comparison) -> list[str]:
    """Empty where nothing decides, as with a single strategy."""
    if comparison.ranking is None or comparison.rows[0].mark != "best":
        return []
    best, *others = (row for row in comparison.rows if row.estimates[comparison.deciding or ""])
    yardstick = unchanged(others) or others[0]
    told = [lead(best, others, comparison), runners_up(others, yardstick), reach_told(best, yardstick), cost_told(best, yardstick)]
    return [sentence for sentence in told if sentence]


def unchanged(rows: list[Row]) -> Row | None:
    """The strategy that changes nothing; None where there is none, or several that differ in something else."""
    plain = [row for row in rows if row.group.first.results["strategy"]["context"] == "none"]
    return plain[0] if len(plain) == 1 else None


def lead(best: Row, others: list[Row], comparison: Comparison) -> str:
    assert comparison.ranking is not None
    # Before the extension there may have been no positions so far out.
    loss, before = (best.estimates.get(f"{row}_{key_of(comparison.ranking)}") for row in ("after", "before"))
    what = f"the lowest loss of {len(others) + 1} strategies at {span(comparison.ranking)} tokens, {loss:.3f} nats"
    earlier = f" (before the extension: {before.mean:.3f})" if before else ""
    if any(row.mark for row in others):
        return f"No clear winner. {best.group.label} has {what}{earlier}, but not by more than chance."
    return f"{best.group.label} {'won' if all(is_sure(row) for row in others) else 'is ahead'}: it has {what}{earlier}."


def is_sure(row: Row) -> bool:
    return row.difference is not None and row.difference.standard_error is not None and row.difference.positive


def runners_up(others: list[Row], yardstick: Row) -> str:
    """By how much the others are behind: those that chance may have put there, the first that it has not, and the yardstick."""
    close = [row for row in others if row.mark]
    behind = [row for row in others if not row.mark]
    parts = []
    if close:
        parts.append(f"Not distinguishable from it: {', '.join(f'{row.group.label} ({above(row)})' for row in close)}")
    if behind:
        sure = (
            f"more than chance explains ({LEVEL:.0%}, Student's t over seeds)" if is_sure(behind[0]) else "how surely one seed cannot tell"
        )
        parts.append(f"{'Next' if close else 'The runner-up'} is {behind[0].group.label}, {above(behind[0])}, {sure}")
    if yardstick in behind[1:]:
        parts.append(f"{yardstick.group.label} is {above(yardstick)}")
    return f"{'. '.join(parts)}."


def above(row: Row) -> str:
    assert row.difference is not None
    if row.difference.mean < 0:
        # Ranked by all seeds, compared over those in common.
        return f"{row.difference * -1:.3f} nats below it over the seeds in common"
    return f"{f'{row.difference:.3f}' if row.difference.mean >= 0.0005 else 'less than 0.001'} nats above it"


def reach_told(best: Row, yardstick: Row) -> str:
    """How far back both use what they read, in all that was measured of both and that either can do."""
    both = {key: (reach, yardstick.reaches[key]) for key, reach in best.reaches.items() if key in yardstick.reaches}
    able = {key: pair for key, pair in both.items() if any(reach.length for reach in pair)}
    parts = [f"{REACHES[key]} {reach_text(ours)} against {reach_text(theirs)}" for key, (ours, theirs) in able.items()]
    return f"How far back it uses a text, in tokens, against {yardstick.group.label}: {'; '.join(parts)}." if parts else ""


def reach_text(reach: Reach) -> str:
    return f"{reach.text} (interval {reach.interval_text})" if reach.interval_text else reach.text


def cost_told(best: Row, yardstick: Row) -> str:
    seconds = cost_text(best, yardstick, "seconds", lambda seconds: f"{seconds:,.1f} s")
    memory = cost_text(best, yardstick, "peak_memory_bytes", mebibytes)
    return f"Its cost, against {yardstick.group.label}: training {seconds}; memory at the peak {memory}."


def cost_text(best: Row, yardstick: Row, key: str, text: Callable[[float], str]) -> str:
    """`49.1 s against 46.3 s (6% more)`; every finished run has its costs."""
    ours, theirs = best.estimates[key], yardstick.estimates[key]
    assert ours is not None
    assert theirs is not None
    ratio = ours.mean / theirs.mean - 1
    difference = ours - theirs
    by_chance = difference.standard_error is not None and not difference.positive and not (difference * -1).positive
    told = f"{abs(ratio):.0%} {'more' if ratio > 0 else 'less'}"
    size = "about the same" if abs(ratio) < SAME_RATIO else f"{told}, which may be chance" if by_chance else told
    return f"{text(ours.mean)} against {text(theirs.mean)} ({size})"
