"""How far an export is looked at."""

from __future__ import annotations

from dataclasses import dataclass

from chorus.errors import UsageError
from chorus.verify.verdict import LEVELS


@dataclass(frozen=True)
class VerifyOptions:
    """How far an export is looked at, and what it must keep.

    level: the last that is looked at: 0 structure, 1 tensors, 2 front end, 3 logits, 4 transcripts, 5 cost.
    runtimes: which are asked; empty for all that the format is for and that are installed.
    timestamps: whether it must work with them too.
    max_wer_increase: points of error rate that a quantised export may have more than its source.
    language: of recordings that do not say it; empty: detected.
    limit: so many rows of a manifest, evenly taken.
    """

    level: int = 5
    runtimes: tuple[str, ...] = ()
    timestamps: bool = True
    max_wer_increase: float = 0.5
    language: str = ""
    split: str | None = None
    limit: int | None = None
    normaliser: str = "marks"

    def __post_init__(self) -> None:
        if not 0 <= self.level < len(LEVELS):
            raise UsageError(f"no level {self.level}", f"0 to {len(LEVELS) - 1}")
