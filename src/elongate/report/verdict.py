"""What the extension bought, in sentences computed from the figures.

Two bins are read: the last one within the original length and the last one beyond it within the target length. The
rows are measured on the same documents but stored without their covariance, so the test (2 standard errors of a
difference of independent means) is cautious: it calls a small change not distinguishable rather than real.
"""

from __future__ import annotations

from typing import Any

from elongate.report.estimate import Estimate
from elongate.report.sections import Bin, losses_of, needle_of, span


def verdict(results: dict[str, Any]) -> list[str]:
    """Sentences on the loss, on the needle and on the gate; empty where none was measured."""
    sentences = loss_verdict(results["curve"]) if "curve" in results else []
    if "needle" in results:
        sentences += needle_verdict(results["needle"])
    if "passed" in results.get("gate", {}):
        sentences.append(gate_verdict(results["gate"]))
    return sentences


def loss_verdict(curve: dict[str, Any]) -> list[str]:
    before = losses_of(curve["table"], "before")
    tuned = "after" in curve["table"]
    after = losses_of(curve["table"], "after" if tuned else "untuned")
    original_length, target_length = curve["original_length"], curve["target_length"]
    near = [bin_ for bin_ in before if bin_ in after and bin_[1] <= original_length]
    reached = [bin_ for bin_ in after if bin_[0] >= original_length and bin_[1] <= target_length]
    if not near or not reached:
        return [] if target_length > original_length else ["The target length is the original length: nothing was extended."]
    end = "after" if tuned else "after it, without training"
    change = f"at {span(near[-1])} it went from {before[near[-1]].mean:.2f} to {after[near[-1]].mean:.2f}."
    far = [bin_ for bin_ in reached if bin_ in before]
    if not far:
        untuned = losses_of(curve["table"], "untuned").get(reached[-1]) if tuned else None
        measured = (
            f"Beyond the trained length ({span(reached[-1])}) the model could not be read before the extension, for want of positions; "
            f"the loss is {after[reached[-1]]:.2f} nats {end}{f' ({untuned.mean:.2f} without training)' if untuned else ''}; {change}"
        )
        return [measured, *new_verdict(before, after, near[-1], reached[-1]), *near_verdict(before, after, near)]
    measured = (
        f"Beyond the trained length ({span(far[-1])}) the loss was {before[far[-1]]:.2f} nats before the extension and "
        f"is {after[far[-1]]:.2f} {end}; {change}"
    )
    return [measured, far_verdict(before, after, near[-1], far[-1]), *near_verdict(before, after, near)]


def far_verdict(before: dict[Bin, Estimate], after: dict[Bin, Estimate], near: Bin, far: Bin) -> str:
    gain, excess = before[far] - after[far], after[far] - before[near]
    if (after[far] - before[far]).positive:
        return f"That is worse by {-gain.mean:.2f} nats: the extension did harm where it should have helped."
    if not gain.positive:
        return "That is no distinguishable change: the extension bought nothing there."
    if not (before[far] - before[near]).positive:
        return f"That is {gain.mean:.2f} nats better, though there was no break past the trained length to repair."
    level = level_text(excess, near)
    if excess.positive:
        return f"That is {gain.mean:.2f} nats better but not repaired: {level}."
    return f"That is {gain.mean:.2f} nats better, and {level}: the break is repaired."


def new_verdict(before: dict[Bin, Estimate], after: dict[Bin, Estimate], near: Bin, far: Bin) -> list[str]:
    """On a length that could not be read before: against what the model could read."""
    excess = after[far] - before[near]
    return [f"That is {level_text(excess, near)}{'' if excess.positive else ': the model reads on as well as it read before'}."]


def level_text(excess: Estimate, near: Bin) -> str:
    """How the loss beyond the trained length compares with that within it."""
    if excess.positive:
        return f"{excess.mean:.2f} nats above {span(near)} before the extension"
    return f"{'not distinguishably above' if excess.mean > 0 else 'no higher than'} {span(near)} before the extension"


def near_verdict(before: dict[Bin, Estimate], after: dict[Bin, Estimate], near: list[Bin]) -> list[str]:
    worse = [f"{span(bin_)} (by {(after[bin_] - before[bin_]).mean:.2f})" for bin_ in near if (after[bin_] - before[bin_]).positive]
    return [f"It cost loss within the trained length: worse at {' and '.join(worse)}."] if worse else []


def needle_verdict(needle: dict[str, Any]) -> list[str]:
    """On the longest length within the target: whether the right answer is preferred to the wrong one."""
    row = "after" if "after" in needle else "untuned"
    before, after = needle_of(needle, "before", "margin"), needle_of(needle, row, "margin")
    within = [length for length in after if length <= needle["target_length"]]
    if not within:
        return []
    margin, earlier = after[max(within)], before.get(max(within))
    outcome = "the right answer is preferred" if margin.positive else "the right answer is not distinguishably preferred"
    history = f" (before: {earlier:.2f})" if earlier else ""
    return [f"Needle at {max(within)} tokens: {outcome}, margin {margin:.2f} nats{history}."]


def gate_verdict(gate: dict[str, Any]) -> str:
    """In a sentence: by how much, how sure that is, and what is allowed."""
    parts = []
    if "loss" in gate:
        part = gate["loss"]
        low, high = part["interval"]
        parts.append(f"the loss rose by {part['rise']:.3f} nats (95%: {low:.3f} to {high:.3f}; {part['margin']:g} allowed)")
    if "answers" in gate:
        part = gate["answers"]
        parts.append(
            f"of {part['n']} answers {part['lost']} were lost and {part['won']} won (p = {part['p']:.2g}; {part['margin']:.0%} may fall)"
        )
    end = "passed" if gate["passed"] else "closed"
    return f"Gate {end}: within {gate['original_length']} tokens, against {gate['base']}, {' and '.join(parts)}."
