"""Models and merges evaluated on one test set, one after the other; results as files.

A merge is computed from weights, deltas and spectra that stay in memory, and put into the model that is loaded: nothing
but hypotheses is written. What was transcribed before, with the very same weights and recordings, is found again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from chorus.errors import ChorusError
from chorus.evaluate.results import Evaluation
from chorus.evaluate.run import NORMALISER, Scoring, finished, refuse_all_failed, run_request
from chorus.merge.options import Options
from chorus.merge.plan import Plan
from chorus.merge.planning.planner import plan
from chorus.merge.runs.resident import Resident
from chorus.runtime import pick_device
from chorus.search.grids import Setting
from chorus.search.recipes import recipe_of
from chorus.transcribe.backends.choose import chosen_backend
from chorus.transcribe.conditions import CLEAN
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.loaded import LoadedBackend
from chorus.transcribe.request import Request
from chorus.transcribe.systems import System, folder_of, open_system
from chorus.transcribe.test_sets import TestSet


class Trials:
    """Evaluates any number of systems on a test set, and keeps each result in a folder of its own below `place`.

    `ended` is called with each system's label; `resident` holds what was read and decomposed before. A context: the
    loaded model is given back at its end.
    """

    def __init__(
        self, test: TestSet, place: Path, *, decoding: Decoding | None = None, conditions: Sequence[str] = (CLEAN,),
        normaliser: str = NORMALISER, device: str = "auto", ended: Callable[[str], None] = lambda label: None,
        resident: Resident | None = None,
    ) -> None:  # fmt: skip
        self.test, self.place, self.ended = test, place, ended
        self.decoding, self.conditions, self.scoring = decoding or Decoding(), list(conditions), Scoring(normaliser)
        self.device = pick_device(device)
        self.resident = resident or Resident()
        self.loaded = LoadedBackend()

    def __enter__(self) -> Trials:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loaded.close()

    def model(
        self, reference: str, *, label: str, role: str = "", home: Mapping[str, object] | None = None
    ) -> Evaluation:
        """A model from disk or hub; `role` and `home` as in `System`."""
        system = replace(open_system(reference, label=label), role=role, home=dict(home or {}))
        found = self._evaluated(system, None)
        # of a merge it is an answer, that its setting is of no use; what merges stand beside must speak
        refuse_all_failed(found)
        return found

    def merge(self, template: Mapping[str, object], setting: Setting, *, label: str = "") -> Evaluation:
        """A template's merge by a setting, in memory."""
        planned = plan(recipe_of(template, setting), Options(device=self._merge_device()))
        parameters = {"method": setting.method, **setting.parameters}
        system = replace(open_system(planned, label=label or setting.label), parameters=parameters)
        return self._evaluated(system, planned)

    def _merge_device(self) -> str:
        # spectra are of float64, which mps lacks; other accelerators have not been tried
        return self.device if self.device.startswith("cuda") else "cpu"

    def _evaluated(self, system: System, planned: Plan | None) -> Evaluation:
        backend = chosen_backend("auto", system)
        request = Request(system, self.test, self.decoding, self.conditions, backend, self.device)
        place = self.place / folder_of(system.label)
        # by what is asked, not by the label: that may stand for another grid's setting, or for other rows
        found = self._found(place, request)
        if found is None:
            loaded = self.loaded.with_weights(request, self.resident.merge(planned)) if planned is not None else None
            found = run_request(request, place, self.scoring, lambda done, total: None, loaded)
        self.ended(system.label)
        return found

    def _found(self, place: Path, request: Request) -> Evaluation | None:
        """A finished result of the very same request; another's, of an earlier version of the file, is replaced."""
        try:
            return finished(place, request, self.scoring)
        except ChorusError:
            return None
