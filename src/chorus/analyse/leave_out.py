"""Leave one out: what each row loses or gains where a merge is made without one of its models.

Every merge of all models but one is evaluated on the same recordings as the merge of all, in pairs. The recipe stays
what it is: the weights of the others change only where the method itself normalises them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from chorus.analyse.evaluated import EvaluatedRows, Evaluations, rows_asked
from chorus.analyse.interference import cells_of, mean_effect, told_of
from chorus.analyse.interference_facts import Effect
from chorus.checkpoints.reference import labelled, parse_reference
from chorus.errors import PlanError
from chorus.evaluate.scores import known, value_of
from chorus.merge.options import Options
from chorus.merge.plan import Plan
from chorus.merge.planning.planner import plan as make_plan
from chorus.merge.recipes.loading import load_recipe
from chorus.merge.runs.resident import Resident
from chorus.plain import JsonObject
from chorus.progress import Progress
from chorus.transcribe.conditions import CLEAN
from chorus.transcribe.systems import open_system, unique_labels

FORMAT = 1


@dataclass(frozen=True)
class LeftOutRow:
    """A domain of a task, and what the merge of all reaches there."""

    name: str
    task: str
    metric: str
    best: float
    utterances: int
    value: float | None


@dataclass(frozen=True)
class LeaveOneOut:
    """By model and row, the points that the merge without it gains (above 0) or loses against the merge of all."""

    recipe: str
    method: str
    models: list[str]
    rows: list[LeftOutRow]
    effects: dict[str, dict[str, Effect | None]]
    means: dict[str, Effect | None]
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> JsonObject:
        """Plain values, for JSON."""
        return {"format": FORMAT, "kind": "leave-one-out", **asdict(self)}


def analyse_leave_one_out(
    recipe: str | Path | Mapping[str, object],
    recordings: EvaluatedRows | Sequence[str],
    *,
    options: Options | None = None,
    progress: Progress = lambda done, total: None,
) -> LeaveOneOut:
    """What each row loses or gains, with intervals, where a recipe's merge is made without each of its models.

    `recordings` are manifests, or say more of them.

    Raises `RecipeError` and `PlanError` as planning does, also for what a method cannot do with one model fewer.

    >>> import chorus
    >>> found = chorus.analyse_leave_one_out("merge.yml", ["test.csv"])  # doctest: +SKIP
    >>> found.effects["radio"]["radio"].points  # doctest: +SKIP
    -12.5
    """
    return leave_one_out_of(plans_without(recipe, options), rows_asked(recordings), progress)


@dataclass(frozen=True)
class Without:
    """The plan of all models, and by the name of the one that is left out those of the others."""

    all: Plan
    others: dict[str, Plan]


def plans_without(recipe: str | Path | Mapping[str, object], options: Options | None = None) -> Without:
    """Everything planned before anything is computed: a method may need more models than are left."""
    # in our words already, whatever dialect it was written in
    loaded = load_recipe(recipe)
    planned = make_plan(loaded, options)
    document, source = loaded.document, loaded.source
    entries = document.get("models")
    if not isinstance(entries, list) or len(planned.variants) != 1:
        raise PlanError(["leave one out takes the plain form of a recipe: models, one output"], source=source)
    called = dict(zip(planned.references, [one.name for one in labelled(planned.references)], strict=True))
    base = None if planned.base is None else planned.references[planned.base]
    others: dict[str, Plan] = {}
    for place, entry in enumerate(entries):
        reference = parse_reference(entry["model"], entry.get("lora"))
        # the base is what the others are differences to, wherever it stands
        if reference == base:
            continue
        left = [one for i, one in enumerate(entries) if i != place]
        if all(parse_reference(one["model"], one.get("lora")) == base for one in left):
            raise PlanError(["a merge of one model: without it nothing is left"], source=source)
        # planned and not only written: slerp of one model is refused here, not behind hours of decoding
        name = called.get(reference, reference.name)
        others[name] = make_plan({**document, "models": left}, options)
    return Without(planned, others)


def leave_one_out_of(plans: Without, wanted: EvaluatedRows, progress: Progress) -> LeaveOneOut:
    """The same of plans."""
    full = plans.all.label
    labels = {name: f"without {name}" for name in plans.others}
    named = [(full, plans.all), *((labels[name], plan) for name, plan in plans.others.items())]
    systems = [open_system(plan, label=label) for label, plan in named]
    # before the first recording: two under one name would share a folder
    unique_labels(systems)
    # weights and spectra of the models are read once for all merges
    resident = Resident()
    with Evaluations(wanted, len(systems), progress) as evaluations:
        for system, (_, planned) in zip(systems, named, strict=True):
            # computed at once: what is read lazily would be computed again for every task
            evaluations.of(replace(system, tensors=resident.merge(planned)), weights=True)
    cells, notes = cells_of(evaluations.every, wanted.by, CLEAN, full, None, common=False)
    effects = {name: {cell.name: cell.effect(label) for cell in cells} for name, label in labels.items()}
    means = {
        name: mean_effect(label, [cell for cell in cells if effects[name][cell.name] is not None], effects[name])
        for name, label in labels.items()
    }
    rows = [
        LeftOutRow(
            cell.name, cell.task.name, cell.task.metrics[0].title, cell.task.metrics[0].best, len(cell.rows[full]),
            known(value_of(cell.rows[full], cell.task.metrics[0])),
        ) for cell in cells
    ]  # fmt: skip
    # rates above 100 count as 100, here as in interference
    told = [*plans.all.warnings, *evaluations.notes, *notes, *told_of(cells, ())]
    return LeaveOneOut(full, plans.all.variant().method, list(labels), rows, effects, means, told)
