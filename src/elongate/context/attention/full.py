"""Every token sees every earlier one (of its document, under `data.isolate_documents`), through torch's fused attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from elongate.context.attention.attention import Attention


@dataclass(frozen=True, kw_only=True)
class Full(Attention):
    word: ClassVar[str] = "full"

    @property
    def implementation(self) -> str:
        return "sdpa"
