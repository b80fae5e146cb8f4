"""What was looked at, and what was seen: one verdict a check, all of them as a table and as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from chorus.plain import JsonObject
from chorus.tables import Table

Status = Literal["holds", "fails", "flagged", "skipped"]
LEVELS = ("structure", "tensors", "front end", "logits", "transcripts", "cost")
SHORT = 240  # letters of what is told in a table


@dataclass(frozen=True)
class Verdict:
    """One check: `flagged` is what a user should know of and what breaks no promise; `skipped` is not passed."""

    level: int
    what: str
    status: Status
    told: str = ""
    facts: JsonObject = field(default_factory=dict)


def holds(level: int, what: str, told: str = "", **facts: object) -> Verdict:
    """A check that is passed."""
    return Verdict(level, what, "holds", told, dict(facts))


def fails(level: int, what: str, told: str, **facts: object) -> Verdict:
    """A check that is not."""
    return Verdict(level, what, "fails", told, dict(facts))


def judged(level: int, what: str, problem: str, told: str = "", **facts: object) -> Verdict:
    """A check that is passed where there is no problem."""
    return fails(level, what, problem, **facts) if problem else holds(level, what, told, **facts)


def flagged(level: int, what: str, told: str, **facts: object) -> Verdict:
    """What to know of."""
    return Verdict(level, what, "flagged", told, dict(facts))


def skipped(level: int, what: str, why: str) -> Verdict:
    """A check that was not made."""
    return Verdict(level, what, "skipped", why)


@dataclass
class Verification:
    """Everything that was looked at of an export (`name`, in `format` and `kind`) against the model `against`.

    missing: runtimes that were asked for and are not installed.
    """

    name: str
    format: str
    kind: str
    against: str
    verdicts: list[Verdict] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> list[Verdict]:
        return [one for one in self.verdicts if one.status == "fails"]

    def failed_at(self, level: int) -> bool:
        """Whether a check of a level fails."""
        return any(one.level == level for one in self.failed)

    @property
    def ok(self) -> bool:
        """Whether nothing fails; what was skipped or flagged is told apart (see `exit_code`)."""
        return not self.failed

    @property
    def counts(self) -> dict[str, int]:
        """Status -> how many."""
        found = Counter(one.status for one in self.verdicts)
        return {status: found[status] for status in ("holds", "fails", "flagged", "skipped") if found[status]}

    def exit_code(self, *, strict: bool = False) -> int:
        """1 where a check fails, or under `strict` is skipped or flagged; 3 where a runtime asked for is missing."""
        if self.failed:
            return 1
        # what was asked for and not looked at is no pass, whatever else holds
        if self.missing:
            return 3
        return int(strict and any(one.status != "holds" for one in self.verdicts))

    def as_dict(self) -> JsonObject:
        """Plain values, for JSON."""
        return {**asdict(self), "ok": self.ok, "counts": self.counts}

    def table(self) -> Table:
        """A row a check."""
        counts = ", ".join(f"{n} {status}" for status, n in self.counts.items())
        return as_table(
            f"{self.name} ({', '.join(filter(None, (self.format, self.kind)))}) against {self.against}",
            self.verdicts,
            [f"{len(self.verdicts)} checks: {counts}"],
        )


def as_table(title: str, verdicts: Sequence[Verdict], notes: Sequence[str] = ()) -> Table:
    """Verdicts in rows."""
    rows = [[f"L{one.level} {LEVELS[one.level]}", one.what, one.status, _short(one.told)] for one in verdicts]
    return Table(title, ["level", "check", "result", "seen"], rows, notes)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHORT else f"{line[:SHORT]}..."
