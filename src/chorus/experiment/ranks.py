"""The effective ranks of an experiment's specialists, joint model and merges, of its first seed; found again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

from chorus.analyse.ranks import Ranks, kept_ranks, ranks
from chorus.checkpoints.lazy_tensor import LazyTensor
from chorus.checkpoints.model import Model
from chorus.checkpoints.open import open_model
from chorus.experiment.places import BASE, base_of, reference_of, template
from chorus.experiment.schema import Experiment
from chorus.experiment.steps import systems_of
from chorus.identity import fingerprint
from chorus.merge.arithmetic.treatment import MATRIX
from chorus.merge.plan import Plan
from chorus.merge.planning.planner import plan
from chorus.merge.runs.resident import Resident
from chorus.search.grids import Setting
from chorus.search.recipes import recipe_of
from chorus.search.selection import Chosen
from chorus.transcribe.systems import folder_of

DECOMPOSES = "tsv_m"  # whose plan names the matrices that subspace methods decompose


def delta_ranks(
    experiment: Experiment, chosen: Mapping[str, Chosen], ended: Callable[[str], None] = lambda label: None
) -> dict[str, list[Ranks]]:
    """label -> the ranks of each matrix of its delta to the base; `ended` is called with each label."""
    deltas, found = _Deltas(experiment), {}
    for label in systems_of(experiment):
        if label != BASE:
            found[label] = deltas.of_model(label)
            ended(label)
    for name, one in chosen.items():
        found[name] = deltas.of_merge(name, one.setting)
        ended(name)
    return found


class _Deltas:
    """The base and the names of its matrices, read once; ranks are kept in files by what they are of."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, self.seed = experiment, experiment.seeds[0]
        self.resident = Resident()

    def of_model(self, label: str) -> list[Ranks]:
        model = open_model(reference_of(self.experiment, label, self.seed))
        return self._kept(label, model.fingerprint(), lambda: model.checkpoint)

    def of_merge(self, name: str, setting: Setting) -> list[Ranks]:
        planned = self._plan(setting)
        return self._kept(name, planned.model().fingerprint(), lambda: self.resident.merge(planned))

    def _kept(self, label: str, identity: str, tensors: Callable[[], Mapping[str, LazyTensor]]) -> list[Ranks]:
        # by content: a model that was trained again under the same name is measured again
        key = fingerprint(base=self._base.fingerprint(), model=identity, tensors=self._matrices)
        path = self.experiment.output_dir / "ranks" / f"{folder_of(label)}.json"
        return kept_ranks(path, key, lambda: ranks(self._base.checkpoint, tensors(), self._matrices))

    def _plan(self, setting: Setting) -> Plan:
        return plan(recipe_of(template(self.experiment, self.seed, setting), setting))

    @cached_property
    def _base(self) -> Model:
        return open_model(base_of(self.experiment))

    @cached_property
    def _matrices(self) -> list[str]:
        # the same matrices for every label, or medians could not be compared
        probe = self._plan(Setting(DECOMPOSES, DECOMPOSES, {}))
        return [t.name for t in probe.variants[0].tensors.values() if t.treatment == MATRIX]
