"""Keys and values of a text that is written token by token, without gradients.

Tokens that no later query sees are dropped: with a window the cache has the same size for every length of the text, with
sinks too. Keys that a pattern rotates itself are stored without rotation, so they can be seen from any distance.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from elongate.context.attention.kernel.blocks import Range
from elongate.context.attention.kernel.kv_store import Call, KeyValueStore


@dataclass
class Kept:
    """Keys and values of one call of attention: tokens 0 to `dropped[0]`, then `dropped[1]` to the last one."""

    keys: Tensor
    values: Tensor
    dropped: Range = (0, 0)

    def append(self, chunk: Range, key: Tensor, value: Tensor, unseen: Range) -> tuple[Tensor, Tensor]:
        """Stores the tokens of a chunk and returns all keys and values that are kept. `unseen`: what no query from the chunk on sees."""
        if self._place(chunk[1]) > self.keys.shape[2]:
            self._drop(unseen, chunk[0])
        if (needed := self._place(chunk[1])) > self.keys.shape[2]:
            # Half as much again, so that a text of n tokens is copied O(log n) times.
            self.keys, self.values = (_grown(x, self._place(chunk[0]), needed + needed // 2) for x in (self.keys, self.values))
        start, stop = self._place(chunk[0]), self._place(chunk[1])
        self.keys[:, :, start:stop], self.values[:, :, start:stop] = key, value
        return self.keys[:, :, :stop], self.values[:, :, :stop]

    def _place(self, token: int) -> int:
        """The place of a token that is not before the dropped ones."""
        return token - (self.dropped[1] - self.dropped[0])

    def _drop(self, unseen: Range, stop: int) -> None:
        """Removes tokens and moves those after them. Rare: the freed space is filled first."""
        if unseen[1] - unseen[0] <= self.dropped[1] - self.dropped[0]:
            return
        first, last = self._place(unseen[1]), self._place(stop)
        for x in (self.keys, self.values):
            x[:, :, unseen[0] : unseen[0] + last - first] = x[:, :, first:last].clone()
        self.dropped = unseen


@dataclass
class KeyValueCache(KeyValueStore):
    """What one text, or several of one length, keeps for each call of attention."""

    kept: dict[Call, Kept] = field(default_factory=dict)

    def of(self, call: Call, key: Tensor, value: Tensor) -> Kept:
        """What is kept for a call; empty before its first chunk."""
        if call not in self.kept:
            self.kept[call] = Kept(*(x.new_empty(*x.shape[:2], 0, x.shape[-1]) for x in (key, value)))
        return self.kept[call]

    @property
    def num_bytes(self) -> int:
        """The memory that keys and values take, with the space for those to come."""
        return sum(x.nbytes for kept in self.kept.values() for x in (kept.keys, kept.values))


def _grown(x: Tensor, used: int, size: int) -> Tensor:
    grown = torch.empty(*x.shape[:2], size, x.shape[-1], dtype=x.dtype, device=x.device)
    grown[:, :, :used] = x[:, :, :used]
    return grown
