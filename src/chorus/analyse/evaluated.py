"""Systems of which many lie in memory alone, evaluated on the rows of one task or several; one model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

from chorus.analyse.recordings import check_rows, parts_of, tests_of
from chorus.errors import ChorusError, UsageError, nearest
from chorus.evaluate.results import Evaluation
from chorus.evaluate.roles import home_in
from chorus.evaluate.run import NORMALISER, Scoring, finished, refuse_all_failed, run_request
from chorus.progress import Progress
from chorus.runtime import pick_device
from chorus.tasks.normalise import normaliser as known_normaliser
from chorus.transcribe.backends.choose import chosen_backend
from chorus.transcribe.conditions import CLEAN
from chorus.transcribe.decoding import Decoding, check_language
from chorus.transcribe.loaded import LoadedBackend
from chorus.transcribe.request import Request
from chorus.transcribe.systems import System, folder_of
from chorus.transcribe.test_sets import TestSet


@dataclass(frozen=True)
class EvaluatedRows:
    """Which rows of which manifests (`[NAME=]MANIFEST`), and how systems are evaluated on them.

    Each manifest is of the tasks that its rows name, of asr where they name none; `task` takes the rows of one alone.
    `by` makes the rows of the tables: domain, language, speaker. `split` is `test` where there is one, else all;
    `limit` counts rows of each manifest and task. `decoding` are settings of `Decoding`. Evaluations are kept below
    `kept`, where a killed analysis finds them.
    """

    data: Sequence[str]
    task: str | None = None
    by: str = "domain"
    split: str | None = None
    limit: int | None = None
    language: str = ""
    decoding: Mapping[str, object] = field(default_factory=dict)
    normaliser: str = NORMALISER
    device: str = "auto"
    kept: str | Path | None = None

    def tests(self) -> tuple[dict[str, TestSet], list[str]]:
        """The test set of each task, and what people should know; `UsageError` and the like before any work."""
        check_rows(self.data, self.by)
        # before a model is loaded: hours of decoding must not end in a misspelt flag
        known_normaliser(self.normaliser)
        check_language(self.asked("asr").language)
        return tests_of(self.data, task=self.task, split=self.split, limit=self.limit, language=self.language)

    def asked(self, task: str) -> Decoding:
        """How rows of a task are decoded."""
        return Decoding.model_validate({**self.decoding, "task": task})


def rows_asked(recordings: EvaluatedRows | Sequence[str]) -> EvaluatedRows:
    """Manifests alone, with all else as it is by default."""
    if isinstance(recordings, EvaluatedRows):
        return recordings
    return EvaluatedRows(recordings)


class Evaluations:
    """Evaluates any number of systems on all the tests; a context, which gives the loaded model back at its end.

    `progress` counts evaluations, of which there will be `total`.
    """

    def __init__(self, wanted: EvaluatedRows, total: int, progress: Progress) -> None:
        self.wanted, self.total, self.progress = wanted, total, progress
        self.tests, self.notes = wanted.tests()
        self.device = pick_device(wanted.device)
        self.done: dict[str, list[Evaluation]] = {}
        self.loaded = LoadedBackend()
        # made when it is needed: what is refused before leaves nothing behind
        self._folder: TemporaryDirectory[str] | None = None
        self._place = Path(wanted.kept) if wanted.kept else None

    def __enter__(self) -> Evaluations:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loaded.close()
        if self._folder is not None:
            self._folder.cleanup()

    @property
    def every(self) -> list[Evaluation]:
        """All evaluations there are."""
        return [one for found in self.done.values() for one in found]

    def of(self, system: System, *, weights: bool = False) -> list[Evaluation]:
        """A system's evaluations, one a task; with `weights` those are put into the model that is loaded.

        Raises `ChorusError` where every decode fails.
        """
        found = []
        for task, test in self.tests.items():
            backend = chosen_backend("auto", system)
            request = Request(system, test, self.wanted.asked(task), [CLEAN], backend, self.device)
            found.append(self._evaluated(request, task, weights=weights))
        self.done[system.label] = found
        self.progress(len(self.done), self.total)
        return found

    def _evaluated(self, request: Request, task: str, *, weights: bool) -> Evaluation:
        place, scoring = self.place / task / folder_of(request.system.label), Scoring(self.wanted.normaliser)
        try:
            found = finished(place, request, scoring)
        except ChorusError:  # another's, of an earlier run with other rows or models: replaced
            found = None
        if found is None:
            tensors = request.system.tensors
            if weights:
                assert tensors is not None
                backend = self.loaded.with_weights(request, tensors)
            else:
                backend = self.loaded.of(request)
            found = run_request(request, place, scoring, lambda done, total: None, backend)
        if not weights:  # of weights that are made up it is an answer, that they are of no use
            refuse_all_failed(found)
        return found

    @property
    def place(self) -> Path:
        if self._place is None:
            self._folder = TemporaryDirectory(prefix="chorus-analysis-")
            self._place = Path(self._folder.name)
        return self._place

    def homes(self, systems: Sequence[System], given: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """The rows that each system is at home in, as is said, else as its training tells; `UsageError` for none."""
        rows = self.rows()
        for label, said in given.items():
            if label not in [one.label for one in systems]:
                raise UsageError(f'no model is called "{label}"{nearest(label, [one.label for one in systems])}')
            for row in said:
                if row not in rows:
                    raise UsageError(f'no row is called "{row}"{nearest(row, rows)}', f"{label} can be at home there")
        found = {}
        for system in systems:
            # what is said by hand stands above what a training says of itself
            found[system.label] = list(given.get(system.label, ())) or self._home(system, rows)
            if not found[system.label]:
                raise UsageError(
                    f"{system.label} is at home in none of {', '.join(rows)}, as far as it tells",
                    f"say it: --specialist {system.label}=ROW",
                )
        return found

    def _home(self, system: System, rows: Mapping[str, tuple[str, str]]) -> list[str]:
        # a joint fine-tune is at home everywhere, which is nowhere to overfit to
        if system.role != "specialist":
            return []
        values = {value for _, value in rows.values()}
        home = home_in(system.home, self.wanted.by, values)
        return [name for name, (_, value) in rows.items() if value == home]

    def rows(self) -> dict[str, tuple[str, str]]:
        """What the rows of the tables will be called -> (task, value of the column)."""
        parts = parts_of(self.tests, self.wanted.by)
        return {name: (task, str(getattr(found[0].row, self.wanted.by))) for name, (task, found) in parts.items()}
