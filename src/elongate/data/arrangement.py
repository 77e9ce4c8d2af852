"""How the tokens of a source become the sequences of a training."""

from __future__ import annotations

from collections.abc import Callable

from elongate.context.sampling.sampling import Sampling
from elongate.data.mixed import MixedSequences
from elongate.data.packing import PackedSequences
from elongate.data.sequences import SampledSequences, SequenceList, Sequences
from elongate.data.source import Source
from elongate.data.tokens import Tokens


def arrange(source: Source, tokens: Tokens, length: int, seed: int) -> SequenceList:
    """The sequences of `length` tokens."""

    def arranged(part: Source, tokens: Tokens, seed: int) -> SequenceList:
        if part.packing == "best_fit":
            return PackedSequences(tokens, length, seed)
        return Sequences(tokens, length, seed, part.isolate_documents)

    return _of_parts(source, tokens, seed, arranged)


def arrange_sampled(source: Source, tokens: Tokens, sampling: Sampling, length: int, reach: int, seed: int) -> SequenceList:
    """The sequences of `length` tokens with sampled positions below `reach`."""

    def arranged(part: Source, tokens: Tokens, seed: int) -> SequenceList:
        return SampledSequences(tokens, sampling, length, reach, seed)

    return _of_parts(source, tokens, seed, arranged)


def _of_parts(source: Source, tokens: Tokens, seed: int, arranged: Callable[[Source, Tokens, int], SequenceList]) -> SequenceList:
    if not (parts := source.parts):
        return arranged(source, tokens, seed)
    shares = source.part_shares
    mixed = {name: arranged(part, tokens.part(name), seed) for name, part in parts.items() if shares[name] > 0}
    return MixedSequences(mixed, shares, seed)
