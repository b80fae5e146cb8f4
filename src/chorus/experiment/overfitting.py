"""Task overfitting in an experiment: each specialist at other ranks and weights, at home and elsewhere, on test."""

from __future__ import annotations

from collections.abc import Callable

from chorus.analyse.evaluated import EvaluatedRows
from chorus.analyse.interference import called_row
from chorus.analyse.overfitting import OverfittingAnalysis, RankAndWeights, analyse_overfitting
from chorus.experiment.places import BASE, base_of, held_out_path, reference_of
from chorus.experiment.schema import Experiment


def overfitting_grid(experiment: Experiment, ended: Callable[[str], None]) -> OverfittingAnalysis | None:
    """The grids of the first seed's specialists, of those too that were trained at other ranks; None where unasked.

    After the selection and the test: nothing is chosen by it.
    """
    asked = experiment.overfitting
    if asked is None:
        return None
    seed, tasks = experiment.seeds[0], experiment.tasks
    names = [*experiment.domains, *(f"{name}@{rank}" for name in experiment.domains for rank in asked.trained)]
    decoding = experiment.decoding.model_dump(exclude={"task"})
    found = analyse_overfitting(
        {name: reference_of(experiment, name, seed) for name in names}, base_of(experiment),
        EvaluatedRows(
            [str(held_out_path(experiment, task)) for task in tasks], by="domain", split="all",
            task=None if len(tasks) > 1 else next(iter(tasks)), decoding=decoding, normaliser=experiment.normaliser,
            device=experiment.device, kept=experiment.output_dir / "overfitting",
        ),
        grid=RankAndWeights(asked.ranks, asked.weights),
        specialists={name: [row_of(experiment, name)] for name in experiment.domains},
    )  # fmt: skip
    ended(BASE)
    return found


def row_of(experiment: Experiment, name: str) -> str:
    """What a domain's row is called beside those of other tasks."""
    task = experiment.task_of(experiment.domains[name])
    every = [*experiment.domains.values(), *experiment.tests.out_of_domain.values(),
             *experiment.tests.other_language.values()]  # fmt: skip
    alone = sum(experiment.task_of(one) == task for one in every) == 1
    return called_row(task, name, several=len(experiment.tasks) > 1, alone=alone)
