"""What a merge reaches after each stage: recovery between base and own model, and what is lost since the best stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from chorus.checkpoints.model import OpenOptions
from chorus.checkpoints.open import Source
from chorus.continual.facts import ContinualFacts, FigureFacts, MarkFacts
from chorus.continual.sets import MeasuredSet, Measuring
from chorus.continual.state import Added, Merged
from chorus.evaluate.bootstrap import paired_bootstrap
from chorus.evaluate.comparison import FULL
from chorus.evaluate.relations import Capped
from chorus.evaluate.results import Evaluation
from chorus.evaluate.run import evaluate
from chorus.evaluate.scores import answered, interval_of, known, value_of
from chorus.progress import Progress
from chorus.transcribe.systems import folder_of, open_system

Bars = Callable[[str], AbstractContextManager[Progress]]  # a label -> a display of its progress


@dataclass(frozen=True)
class Evaluating:
    """Evaluates systems on sets, each result in a folder of its own below `place`."""

    place: Path
    measuring: Measuring
    options: OpenOptions
    bars: Bars
    overwrite: bool = False

    def run(self, source: Source, one: MeasuredSet, label: str) -> Evaluation:
        """What is there of the same request is read, what was killed goes on."""
        system = open_system(source, label=label, options=self.options)
        with self.bars(f"{one.name}: {label}") as progress:
            return evaluate(
                system, one.test, self.place / folder_of(one.name) / folder_of(label), decoding=one.decoding,
                normaliser=self.measuring.normaliser, device=self.measuring.device, overwrite=self.overwrite,
                progress=progress,
            )  # fmt: skip

    def figure(self, found: Evaluation, one: MeasuredSet) -> FigureFacts:
        """The first metric of the set's task."""
        metric = found.task.metrics[0]
        told = interval_of(found.scored, found.task, metric)
        return FigureFacts(
            metric=metric.name, title=metric.title, best=metric.best, value=known(value_of(found.scored, metric)),
            low=known(told.low), high=known(told.high), utterances=len(found.scored),
            asked=one.asked(self.measuring.normaliser),
        )  # fmt: skip


def measure_stage(
    facts: ContinualFacts, merged: Source, begun: Merged, added: Added, sets: Mapping[str, MeasuredSet], by: Evaluating
) -> ContinualFacts:
    """The facts with the last stage's figures on these sets, and with the marks that they lack.

    The base is measured on each set once, and once more, in pairs, with the model that is added now on the set of its
    name: later that is not there any more.
    """
    stage, marks = facts.stages[-1], dict(facts.marks)
    figures = dict(stage.figures)
    for name, one in sets.items():
        asked = one.asked(by.measuring.normaliser)
        mark = marks.get(name)
        if mark is None or mark.base.asked != asked or (name == added.name and mark.own is None):
            marks[name] = _mark(begun, added, one, by)
        # what an earlier call has measured stands, so that further sets cost their own decoding alone
        if name not in figures or figures[name].asked != asked:
            figures[name] = by.figure(by.run(merged, one, f"stage {facts.count}"), one)
    last = stage.model_copy(update={"figures": figures})
    return facts.model_copy(update={"stages": [*facts.stages[:-1], last], "marks": marks})


def _mark(begun: Merged, added: Added, one: MeasuredSet, by: Evaluating) -> MarkFacts:
    base = by.run(begun.base, one, "base")
    if one.name != added.name:
        return MarkFacts(base=by.figure(base, one))
    own = by.run(added.reference, one, "own")
    # as recovery counts: a base that writes ten words for one has nothing more to lose
    metric = Capped(own.task.metrics[0])
    less = paired_bootstrap([answered(own.scored, base.scored, own.task, metric)], metric)
    # a NaN too is no gain: of one cluster nothing can be told
    counts = less.high < 0 if metric.best == 0 else less.low > 0
    return MarkFacts(base=by.figure(base, one), own=by.figure(own, one), counts=counts)


@dataclass(frozen=True)
class Standing:
    """How the merge stands on one set. `since` is the model's number, from which on it is seen; None: not seen yet."""

    name: str
    since: int | None
    now: FigureFacts
    mark: MarkFacts | None
    recovery: float | None
    best_before: FigureFacts | None
    forgetting: float | None  # points, below zero where an earlier stage was better
    recovery_before: float | None = None  # of that stage


def standings(facts: ContinualFacts) -> list[Standing]:
    """Each set that the last stage was measured on, in the order in which the models came."""
    known_names = facts.names
    found = []
    for name, now in facts.stages[-1].figures.items():
        mark = facts.marks.get(name)
        since = known_names.index(name) + 1 if name in known_names else None
        best = _best_before(facts, name, now, since or 0)
        gain = None if best is None else now.gain_on(best)
        before = None if best is None else recovery_of(best, mark)
        found.append(Standing(name, since, now, mark, recovery_of(now, mark), best, gain, before))
    return sorted(found, key=lambda one: one.since or len(known_names) + 1)


def _best_before(facts: ContinualFacts, name: str, now: FigureFacts, since: int) -> FigureFacts | None:
    """The best figure of an earlier stage on the same rows, decoded and counted in the same way."""
    # not from before the set's own model came: what that brought would hide what others have lost
    stages = [s for number, s in enumerate(facts.stages[:-1], facts.earlier + 1) if number >= since]
    earlier = [stage.figures[name] for stage in stages if name in stage.figures]
    # of other rows, or decoded otherwise, a difference would be no forgetting
    alike = [(gain, one) for one in earlier if (gain := now.gain_on(one)) is not None]
    return min(alike, key=lambda pair: pair[0])[1] if alike else None


def recovery_of(now: FigureFacts, mark: MarkFacts | None) -> float | None:
    """(now - base) / (own - base), rates above 100 as 100; None where the own model's gain may be chance."""
    if mark is None or mark.own is None or not mark.counts or mark.base.asked != now.asked:
        return None
    values = [mark.base.value, mark.own.value, now.value]
    if None in values:
        return None
    base, own, here = (min(float(value or 0.0), FULL) for value in values)
    return (base - here) / (base - own) if base != own else None


def summary(facts: ContinualFacts) -> dict[str, float | None]:
    """Over the sets that are seen: mean and least recovery, mean and worst forgetting."""
    # what no model was made for was never learnt, and cannot be forgotten
    seen = [one for one in standings(facts) if one.since is not None]
    recoveries = [one.recovery for one in seen if one.recovery is not None]
    lost = [one.forgetting for one in seen if one.forgetting is not None]
    return {
        "mean_recovery": sum(recoveries) / len(recoveries) if recoveries else None,
        "least_recovery": min(recoveries, default=None),
        "mean_forgetting": sum(lost) / len(lost) if lost else None,
        "worst_forgetting": min(lost, default=None),
    }
