"""The tables of a continual merge: how it stands on each set now, and what each stage reached."""

from __future__ import annotations

from chorus.continual.facts import ContinualFacts, FigureFacts
from chorus.continual.figures import Standing, standings, summary
from chorus.tables import Table

NONE = "-"


def models(count: int) -> str:
    """So many models.

    >>> models(1), models(2)
    ('1 model', '2 models')
    """
    return "1 model" if count == 1 else f"{count} models"


def standing_table(facts: ContinualFacts) -> Table:
    """Each set: base, own model, now; what is recovered, and what was lost since the best stage."""
    found = standings(facts)
    rows = [
        [
            one.name, NONE if one.since is None else str(one.since), one.now.title,
            _value(one.mark.base if one.mark else None), _value(one.mark.own if one.mark else None),
            _with_interval(one.now), _number(one.recovery), _value(one.best_before), _points(one.forgetting),
        ]
        for one in found
    ]  # fmt: skip
    over = summary(facts)
    # of one set they would only be said twice
    if sum(one.since is not None for one in found) > 1 and any(value is not None for value in over.values()):
        for title, recovery, lost in (
            ("mean of the seen", "mean_recovery", "mean_forgetting"),
            ("least of the seen", "least_recovery", "worst_forgetting"),
        ):
            rows.append([title, *[NONE] * 5, _number(over[recovery]), NONE, _points(over[lost])])
    columns = ["set", "model", "metric", "base", "own", "now", "recovery", "best before", "forgetting"]
    return Table(f"After {models(facts.count)}", columns, rows, _notes(found, facts))


def stages_table(facts: ContinualFacts) -> Table:
    """A row a stage: the model, its weight, and the merge's figure on each set."""
    sets = list(dict.fromkeys(name for stage in facts.stages for name in stage.figures))
    rows = []
    for number, stage in enumerate(facts.stages, facts.earlier + 1):
        # of a projected model the factor is no share
        weight = f"{stage.weight:.3g}" if stage.method != "opcm" else NONE
        rows.append([
            str(number), stage.model, stage.method, weight, *(_value(stage.figures.get(name)) for name in sets)
        ])  # fmt: skip
    return Table("Stages", ["model", "name", "method", "weight", *sets], rows)


def dev_table(facts: ContinualFacts) -> Table | None:
    """What each weight of the earlier merge reached on dev, the chosen one in bold; None where none was chosen."""
    stage = facts.stages[-1]
    if not stage.dev:
        return None
    sets = list(dict.fromkeys(name for each in stage.dev.values() for name in each))
    rows = [[share, *(_percent(each.get(name)) for name in sets)] for share, each in stage.dev.items()]
    chosen = {(i, 0) for i, share in enumerate(stage.dev) if share == stage.chosen}
    return Table("On dev", ["earlier merge", *sets], rows, [f"chosen: {stage.chosen}"], chosen)


def _notes(found: list[Standing], facts: ContinualFacts) -> list[str]:
    notes = ["forgetting: points since the best earlier stage; below zero is lost"]
    unsure = [one.name for one in found if one.mark and one.mark.own and not one.mark.counts]
    if unsure:
        notes.append(f"no recovery for {', '.join(unsure)}: what the own model gains on the base may be chance")
    unknown = [one.name for one in found if one.since is not None and (one.mark is None or one.mark.own is None)]
    if unknown:
        notes.append(f"no recovery for {', '.join(unknown)}: the own model was not measured when it was added")
    other = [
        one.name for one in found
        if any(one.name in s.figures and s.figures[one.name].asked != one.now.asked for s in facts.stages[:-1])
    ]  # fmt: skip
    if other:
        notes.append(f"{', '.join(other)}: earlier stages had other rows, decoding or counting, and are left out")
    unseen = [one.name for one in found if one.since is None]
    if unseen:
        notes.append(f"of no model in the merge: {', '.join(unseen)} (a set belongs to the model of its name)")
    return notes


def _value(found: FigureFacts | None) -> str:
    return _percent(None if found is None else found.value)


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _with_interval(found: FigureFacts) -> str:
    if found.value is None or found.low is None or found.high is None:
        return _value(found)
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def _points(value: float | None) -> str:
    return NONE if value is None else f"{value:+z.2f}"
