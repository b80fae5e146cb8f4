"""The effective ranks of an experiment's specialists and merges, of its first seed."""

from __future__ import annotations

from collections.abc import Sequence

from chorus.analyse.ranks import Ranks, ranks
from chorus.checkpoints.open import open_model
from chorus.checkpoints.reference import parse_reference
from chorus.experiment.config import Experiment, Setting
from chorus.experiment.steps import Outcome
from chorus.experiment.sweep import recipe_of, reference
from chorus.experiment.trainings import JOINT, base_of
from chorus.merge.arithmetic.treatment import MATRIX
from chorus.merge.planning.planner import plan
from chorus.merge.runs.resident import Resident


def effective_ranks(made: Experiment, outcome: Outcome) -> dict[str, tuple[str, Sequence[Ranks]]]:
    """label -> (role, the ranks of each matrix of its delta): of those that subspace methods decompose."""
    seed = made.seeds[0]
    base = open_model(parse_reference(base_of(made))).checkpoint
    probe = plan(recipe_of(made, Setting("tsv_m", "tsv_m", {}), seed))
    names = [t.name for t in probe.variants[0].tensors.values() if t.treatment == MATRIX]
    found: dict[str, tuple[str, Sequence[Ranks]]] = {}
    for label in [*made.domains, *([JOINT] if made.joint else [])]:
        tensors = open_model(parse_reference(reference(made, label, seed))).checkpoint
        found[label] = ("joint" if label == JOINT else "specialist", ranks(base, tensors, names))
    resident = Resident()
    for name, one in outcome.chosen.items():
        found[name] = ("merge", ranks(base, resident.merge(plan(recipe_of(made, one.setting, seed))), names))
    return found
