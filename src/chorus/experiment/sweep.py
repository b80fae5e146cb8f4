"""Systems of an experiment heard on a test set: models from disk, merges in memory, results as files.

A merge is computed from weights, deltas and spectra that stay in memory, and put into the model that is loaded: nothing
but what was heard is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from chorus.errors import CheckpointError, ChorusError
from chorus.evaluate.results import Evaluation
from chorus.evaluate.run import Scoring, finished, run_request
from chorus.experiment.config import Experiment, Setting
from chorus.experiment.trainings import JOINT, base_of, model_dir
from chorus.merge.method import METHODS
from chorus.merge.options import Options
from chorus.merge.plan import Plan
from chorus.merge.planning.planner import plan
from chorus.merge.runs.resident import Resident
from chorus.runtime import pick_device
from chorus.transcribe.backends.choose import chosen_backend
from chorus.transcribe.backends.protocol import Backend
from chorus.transcribe.request import Request
from chorus.transcribe.systems import System, folder_of, open_system
from chorus.transcribe.test_sets import TestSet
from chorus.transcribe.transcriber import load_backend


def reference(made: Experiment, name: str, seed: int) -> str:
    """A specialist or the joint model as `chorus evaluate` and recipes name it: an adapter stands on its base."""
    directory = model_dir(made, name, seed)
    return f"{base_of(made)}+{directory}" if (directory / "adapter_config.json").exists() else str(directory)


def recipe_of(made: Experiment, setting: Setting, seed: int) -> dict[str, Any]:
    """A merge of a seed's specialists, as a recipe that `chorus merge` takes."""
    method = METHODS.get(setting.method)
    recipe: dict[str, Any] = {"merge_method": setting.method}
    if method.base == "required" or setting.with_base:
        recipe["base_model"] = base_of(made)
    recipe["models"] = [{"model": reference(made, name, seed)} for name in made.domains]
    parameters = dict(setting.parameters)
    weight = method.parameters.get("weight")
    if weight is not None and weight.required and "weight" not in parameters:
        parameters["weight"] = 1.0
    if parameters:
        recipe["parameters"] = parameters
    return {**recipe, "out_dtype": "float32"}


class Listener:
    """Hears one test set with many systems of one seed, and keeps the results below a folder."""

    def __init__(
        self, made: Experiment, seed: int, test: TestSet, place: Path, *, conditions: Sequence[str],
        ended: Callable[[str], None] = lambda label: None,
    ) -> None:  # fmt: skip
        self.made, self.seed, self.test, self.place = made, seed, test, place
        self.conditions, self.ended = conditions, ended
        self.device = pick_device(made.device)
        self.resident = Resident()
        self._backend: Backend | None = None

    def model(self, label: str) -> Evaluation:
        """The base, the joint model, or the specialist of a domain."""
        if label == "base":
            system = replace(open_system(base_of(self.made), label=label), role="base")
        else:
            role, home = ("joint", {}) if label == JOINT else ("specialist", {"domain": label})
            opened = open_system(reference(self.made, label, self.seed), label=label)
            system = replace(opened, role=role, home=home)
        return self._evaluated(system, None)

    def merge(self, setting: Setting, label: str = "") -> Evaluation:
        """A merge, in memory."""
        planned = self.plan(setting)
        found = {"method": setting.method, **setting.parameters}
        system = replace(open_system(planned, label=label or setting.label), parameters=found)
        return self._evaluated(system, planned)

    def plan(self, setting: Setting) -> Plan:
        """The plan of a setting's merge."""
        return plan(recipe_of(self.made, setting, self.seed), Options(device=self._merge_device()))

    def _merge_device(self) -> str:
        return self.device if self.device.startswith("cuda") else "cpu"

    def _evaluated(self, system: System, planned: Plan | None) -> Evaluation:
        made = self.made
        request = Request(
            system, self.test, made.heard_by, list(self.conditions), chosen_backend("auto", system), self.device
        )
        place = self.place / folder_of(system.label)
        scoring = Scoring(made.normaliser)
        found = _same(place, request.fingerprint, scoring)
        if found is None:
            backend = self._loaded(request, self.resident.merge(planned)) if planned is not None else None
            found = run_request(request, place, scoring, lambda done, total: None, backend)
        self.ended(system.label)
        return found

    def _loaded(self, request: Request, tensors: Mapping[str, Any]) -> Backend:
        """The one model that all merges are put into."""
        self._backend = with_weights(self._backend, request, tensors)
        return self._backend

    def close(self) -> None:
        if self._backend is not None:
            self._backend.close()


def with_weights(backend: Backend | None, request: Request, tensors: Mapping[str, Any]) -> Backend:
    """A loaded backend with other weights put into it; a new one where there is none, or where that cannot be done."""
    if backend is not None:
        try:
            backend.replace(tensors)
            return backend
        except CheckpointError:
            backend.close()
    return load_backend(replace(request, system=replace(request.system, tensors=tensors)))


def _same(place: Path, fingerprint: str, scoring: Scoring) -> Evaluation | None:
    """A finished result of the very same request; another's, of an earlier version of the experiment, is replaced."""
    try:
        return finished(place, fingerprint, scoring)
    except ChorusError:
        return None
