"""The memory plans under test, by name."""

from __future__ import annotations

from elongate.memory.checkpoint import Checkpoint
from elongate.memory.memory import Memory
from elongate.memory.plain import Plain
from elongate.memory.stream import Stream

PLANS: dict[str, Memory] = {
    "plain": Plain(),
    "plain row by row": Plain(micro_batch_tokens=1),
    "checkpoint": Checkpoint(),
    "checkpoint recomputed": Checkpoint(keep_attention=False, mlp_chunk_length=8),
    "checkpoint but for a layer": Checkpoint(keep_layers=1, mlp_chunk_length=8),
    "stream 1": Stream(chunk_length=1),
    "stream 7": Stream(chunk_length=7),
    "stream 8 recomputed": Stream(chunk_length=8, keep_attention=False),
    "stream 7 layer by layer": Stream(chunk_length=7, recompute=True),
    "stream 8 recomputed layer by layer": Stream(chunk_length=8, keep_attention=False, recompute=True),
    "stream 7 on disk": Stream(chunk_length=7, on_disk=True),
    "stream 8 recomputed on disk": Stream(chunk_length=8, keep_attention=False, on_disk=True),
    "stream whole": Stream(chunk_length=20),
    "stream longer": Stream(chunk_length=100),
}
# Chunks of one token are slow, so tests that do not need them leave them out.
QUICK = [name for name in PLANS if name != "stream 1"]
