"""What became of a model's tensors on their way into an adapter, and what must be said about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

LITTLE = 0.8  # share of a module's squared norm below which a warning is given


@dataclass(frozen=True)
class ModuleReport:
    """What became of one module: its rank, the share of its squared norm that was kept, how it was computed."""

    tensor: str
    rank: int
    energy: float
    way: str


@dataclass
class AdapterResult:
    """What was written: rank and energy of every module, what was saved whole, what could not be kept."""

    directory: Path
    variants: list[str]
    modules: list[ModuleReport] = field(default_factory=list)
    saved: list[str] = field(default_factory=list)
    dropped: list[tuple[str, float]] = field(default_factory=list)
    parameters: int = 0
    warnings: list[str] = field(default_factory=list)

    def add(self, other: AdapterResult) -> None:
        """Join what became of another variant."""
        self.modules += other.modules
        self.saved = list(dict.fromkeys([*self.saved, *other.saved]))
        self.dropped = list(dict.fromkeys([*self.dropped, *other.dropped]))
        self.parameters += other.parameters
        self.warnings = list(dict.fromkeys([*self.warnings, *other.warnings]))


def notes(result: AdapterResult) -> list[str]:
    """What a reader must know: modules of which little was kept, tensors that were dropped."""
    lines = []
    poor = sorted((m.energy, m.tensor) for m in result.modules if m.energy < LITTLE)
    if poor:
        energy, worst = poor[0]
        lines.append(
            f"{len(poor)} of {len(result.modules)} modules keep less than {100 * LITTLE:.0f} % of their energy, "
            f"{worst} keeps {100 * energy:.1f} %: raise --max-rank, or merge into a model"
        )
    if result.dropped:
        name, size = max(result.dropped, key=lambda pair: pair[1])
        lines.append(
            f"{len(result.dropped)} tensors changed and cannot be in an adapter, so they are left out; "
            f"the largest change is that of {name} (norm {size:.3g})"
        )
    return lines
