"""Where an experiment is, and how long it will still take: each kind of step is timed as it goes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from threading import Lock

from chorus.progress import Told

GUESS_S = {  # until one of the kind has been timed
    "train": 60.0, "calibrate": 60.0, "dev": 5.0, "test": 10.0, "ranks": 2.0, "overfitting": 120.0, "report": 5.0,
}  # fmt: skip


@dataclass
class Steps:
    """Steps by kind: how many there are, are done, and what one takes (those found finished do not count)."""

    total: dict[str, int]
    show: Told
    side_by_side: int = 1  # trainings at once
    done: dict[str, int] = field(default_factory=dict)
    spent_s: dict[str, float] = field(default_factory=dict)
    timed: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # ends come from the threads of trainings side by side
        self._lock, self._last = Lock(), time.monotonic()

    def ended(self, kind: str, label: str = "") -> None:
        """One step more is done; it took the time since the last one."""
        with self._lock:
            now = time.monotonic()
            self.done[kind] = self.done.get(kind, 0) + 1
            took, self._last = now - self._last, now
            if took > 0.05:  # else it was found finished
                self.spent_s[kind] = self.spent_s.get(kind, 0.0) + took
                self.timed[kind] = self.timed.get(kind, 0) + 1
            done, total = sum(self.done.values()), sum(self.total.values())
            told = f"{kind} {label}".strip()
            self.show(done, total, f"{told}; about {duration(self.left_s())} left" if done < total else told)

    def left_s(self) -> float:
        """A prediction from what steps of each kind have taken so far."""
        left = 0.0
        for kind, total in self.total.items():
            each = self.spent_s[kind] / self.timed[kind] if self.timed.get(kind) else GUESS_S[kind]
            if kind == "train" and not self.timed.get(kind):
                # only the guess: what was timed is the time between two ends, several at once already in it
                each /= self.side_by_side
            left += each * max(0, total - self.done.get(kind, 0))
        return left


def duration(seconds: float) -> str:
    """
    >>> duration(42), duration(600), duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
