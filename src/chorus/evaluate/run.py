"""One evaluation: recordings, conditions, a backend, rows on disk as they are heard, a summary at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from chorus._version import __version__
from chorus.data.audio import RATE
from chorus.errors import ChorusError, DataError, OutputError, UsageError
from chorus.evaluate.results import FORMAT, PARTIAL, SUMMARY, Evaluation, Partial, read_evaluation, write_evaluation
from chorus.identity import fingerprint
from chorus.provenance import versions
from chorus.runtime import pick_device, quiet_libraries
from chorus.tasks.normalise import normaliser as named_normaliser
from chorus.tasks.scored import Answer
from chorus.transcribe.backends.choose import BACKENDS, chosen_backend
from chorus.transcribe.backends.protocol import Backend, Hypothesis, Sound
from chorus.transcribe.conditions import CLEAN, check_condition, under
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.segments import pieces
from chorus.transcribe.systems import System, open_system
from chorus.transcribe.test_sets import TestSet, load_test_set

if TYPE_CHECKING:
    from chorus.data.utterance import Utterance

Progress = Callable[[int, int], None]
NORMALISER = "marks"
AHEAD_S = 600.0  # seconds of audio that are read ahead of the decoder
LOADERS = 4
KEPT_H = 1.0  # hours of audio, all conditions together, that stay in memory for the next system: 230 MB
PACKAGES = ("ctranslate2", "faster-whisper", "jiwer", "sacrebleu", "soundfile", "soxr", "whisper-normalizer")


@dataclass
class Task:
    """What is asked of a system."""

    system: System
    test: TestSet
    decoding: Decoding = field(default_factory=Decoding)
    conditions: Sequence[str] = (CLEAN,)
    backend: str = "transformers"
    device: str = "cpu"

    @property
    def mark(self) -> str:
        """Everything that the transcripts depend on."""
        return fingerprint(
            evaluation=FORMAT, system=self.system.identity, test=self.test.mark, decoding=self.decoding.model_dump(),
            conditions=list(self.conditions), backend=self.backend, device=self.device.split(":")[0],
        )  # fmt: skip


def evaluate(
    system: System | str,
    data: TestSet | str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    decoding: Decoding | None = None,
    conditions: Sequence[str] = (CLEAN,),
    normaliser: str = NORMALISER,
    unit: Any = None,
    backend: str = "auto",
    device: str = "auto",
    overwrite: bool = False,
    parquet: bool = False,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Hear recordings with a system and write what was heard and how well, into the directory `out`.

    `system` is a directory, hub id, `base+adapter`, or what `chorus.transcribe.systems.from_plan(chorus.plan(recipe))`
    returns. `unit` counts "words" or "characters" for all rows, else as each row's language is written. A killed
    evaluation, given again, goes on; a finished one is read, and counted again where only the normaliser differs.

    Raises `DataError`, `CheckpointError`, `MissingExtraError`, `OutputError`; `ChorusError` where every decode fails.

    >>> chorus.evaluate("openai/whisper-small", "test.csv", "evaluations/small").summary["all"]  # doctest: +SKIP
    """
    named_normaliser(normaliser)
    chosen = [check_condition(c) for c in dict.fromkeys(conditions)]
    opened = open_system(system) if isinstance(system, str) else system
    if not isinstance(data, TestSet):
        data = load_test_set([data] if isinstance(data, str | Path) else data)
    device = pick_device(device)
    task = Task(opened, data, decoding or Decoding(), chosen, chosen_backend(backend, opened), device)
    place = Path(out) if out is not None else Path("evaluations") / opened.label
    settings = {"normaliser": normaliser, "unit": unit, "parquet": parquet}
    done = finished(place, task.mark, settings, overwrite=overwrite)
    return done if done is not None else hear(task, place, settings, progress)


def finished(place: Path, mark: str, settings: Mapping[str, Any], *, overwrite: bool) -> Evaluation | None:
    """What is there already of the same task."""
    if overwrite or not place.exists() or not any(place.iterdir()):
        return None
    if not (place / SUMMARY).exists():
        if (place / PARTIAL).exists():
            return None
        raise OutputError(f"{place}: holds something else", "choose another directory, or --overwrite")
    found = read_evaluation(place)
    if found.summary["mark"] != mark:
        raise OutputError(
            f"{place}: another evaluation is there (of {found.label}, other settings or recordings)",
            "choose another directory, or --overwrite",
        )
    same = found.normaliser == settings["normaliser"] and found.summary.get("forced_unit") == settings["unit"]
    if same:
        return found
    from chorus.evaluate.summary import summarise

    summary = summarise(found.summary, found.rows, settings["normaliser"], settings["unit"])
    return write_evaluation(place, summary, with_edits(found.rows, settings), parquet=settings["parquet"])


def hear(
    task: Task, place: Path, settings: Mapping[str, Any], progress: Progress, backend: Backend | None = None
) -> Evaluation:
    """Decode what is not heard yet, then count. A `backend` that is given has loaded the system, and stays open."""
    from chorus.evaluate.summary import summarise

    partial = Partial(place, task.mark)
    try:
        listener = Listener(task, partial, backend)
        facts = listener.run(progress)
    finally:
        partial.close()
    wanted = [(name, condition) for condition in task.conditions for name in task.test.utterances]
    rows = [partial.rows[key] for key in wanted]
    took_s = sum(row.pop("took_s", 0.0) for row in rows)
    seconds = sum(row["seconds"] for row in rows)
    told = {
        "format": FORMAT,
        "kind": "evaluation",
        "chorus": __version__,
        "mark": task.mark,
        "system": {
            "label": task.system.label, "kind": task.system.kind, "identity": task.system.identity,
            "role": task.system.role, "home": task.system.home, "parameters": task.system.parameters,
        },
        "backend": task.backend,
        "device": task.device.split(":")[0],
        "decoding": task.decoding.model_dump(mode="json"),
        "versions": {**versions(PACKAGES), **facts},
        "test": {
            "mark": task.test.mark, "utterances": len(task.test.utterances), "hours": round(task.test.hours, 4),
            "left_out": {reason: len(names) for reason, names in task.test.left_out.items()},
        },
        "conditions": list(task.conditions),
        "timing": {"decode_s": round(took_s, 3), "audio_s": round(seconds, 3),
                   "real_time_factor": round(took_s / seconds, 5) if seconds else None},
    }  # fmt: skip
    summary = summarise(told, rows, settings["normaliser"], settings["unit"])
    made = write_evaluation(place, summary, with_edits(rows, settings), parquet=settings["parquet"])
    if rows and all(row.get("failed") for row in rows):
        raise ChorusError(f"{task.system.label}: every decode failed: {rows[0]['failed']}", f"see {place}")
    return made


def with_edits(rows: Sequence[Answer], settings: Mapping[str, Any]) -> list[Answer]:
    """Rows with their counts, for readers of the file."""
    from chorus.tasks.scored import score_texts

    counted = score_texts(rows, settings["normaliser"], settings["unit"])
    return [
        {**row, "unit": one.unit, "errors": one.counts.errors, "length": one.counts.length}
        for row, one in zip(rows, counted, strict=True)
    ]


class Listener:
    """Hears what a partial result lacks; the audio of the next utterances is read while these are decoded."""

    def __init__(self, task: Task, partial: Partial, backend: Backend | None = None) -> None:
        self.task, self.partial, self.backend = task, partial, backend
        self._cuts, self._longest = False, 30 * RATE

    def run(self, progress: Progress) -> dict[str, str]:
        """Returns the backend's facts; empty where everything was heard already."""
        task = self.task
        total = len(task.test.utterances) * len(task.conditions)
        left = [
            (name, condition) for condition in task.conditions for name in task.test.utterances
            if (name, condition) not in self.partial.rows
        ]  # fmt: skip
        progress(total - len(left), total)
        if not left:
            return {}
        with quiet_libraries():
            backend = self.backend or BACKENDS.get(task.backend)(task.system, task.decoding, task.device)
            try:
                backend.check([u.row for u in task.test.utterances.values()])
                self._cut_as(backend)
                left.sort(key=lambda key: (*backend.sort_key(task.test.utterances[key[0]].duration_s), key))
                for rows in self._heard(backend, left):
                    self.partial.add(cast(list[Answer], rows))
                    progress(total - len(left) + self._count(left), total)
            finally:
                if backend is not self.backend:
                    backend.close()
        return dict(backend.facts)

    def _cut_as(self, backend: Backend) -> None:
        """Whether longer audio than the model hears at once is cut at pauses."""
        self._longest = round((backend.longest_s or 30.0) * RATE)
        kind = self.task.decoding.segments
        if kind == "native" and not backend.long_form:
            raise UsageError(f"{self.task.system.label} has no long form of its own", "use --segments auto or vad")
        self._cuts = kind == "auto" and not backend.long_form and backend.longest_s is not None

    def _count(self, left: Sequence[tuple[str, str]]) -> int:
        return sum(key in self.partial.rows for key in left)

    def _heard(self, backend: Backend, keys: Sequence[tuple[str, str]]) -> Iterator[list[dict[str, Any]]]:
        parts = list(self._parts(keys))
        with ThreadPoolExecutor(LOADERS, thread_name_prefix="audio") as pool:
            coming = [pool.submit(self._load, key) for key in parts[0]]
            for number, part in enumerate(parts):
                ready, coming = coming, []
                if number + 1 < len(parts):
                    coming = [pool.submit(self._load, key) for key in parts[number + 1]]
                yield self._part(backend, part, [one.result() for one in ready])

    def _parts(self, keys: Sequence[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
        """As many utterances as fill some batches and are not too long together."""
        part: list[tuple[str, str]] = []
        seconds = 0.0
        for key in keys:
            length = self.task.test.utterances[key[0]].duration_s
            if len(part) >= self.task.decoding.batch_size and seconds + length > AHEAD_S:
                yield part
                part, seconds = [], 0.0
            part.append(key)
            seconds += length
        if part:
            yield part

    def _load(self, key: tuple[str, str]) -> list[Sound] | str:
        """The sounds of an utterance under a condition, kept for the next system where that takes little room."""
        test = self.task.test
        place = (key, self.task.decoding.segments, self._cuts, self._longest)
        found = test.kept.get(place)
        if found is None:
            found = self._sounds(key)
            if test.hours * len(self.task.conditions) <= KEPT_H:
                test.kept[place] = found
        return found

    def _sounds(self, key: tuple[str, str]) -> list[Sound] | str:
        """The sounds of an utterance under a condition, whole or in pieces; or why there are none."""
        name, condition = key
        utterance: Utterance = self.task.test.utterances[name]
        try:
            mark = utterance.key()
            audio = under(utterance.audio(), condition, mark)
        except DataError as error:  # a header that reads and a body that does not
            return error.message
        mark = mark if condition == CLEAN else f"{mark}|{condition}"
        if self.task.decoding.segments == "vad" or (self._cuts and len(audio) > self._longest):
            cut = pieces(audio, self._longest / RATE)
            return [Sound(piece, utterance.row, f"{mark}|vad{i}") for i, piece in enumerate(cut)]
        return [Sound(audio, utterance.row, mark)]

    def _part(
        self, backend: Backend, keys: Sequence[tuple[str, str]], loaded: Sequence[list[Sound] | str]
    ) -> list[dict[str, Any]]:
        """Rows of some utterances: their sounds in batches of one kind, the longest first."""
        sounds = [(i, n) for i, one in enumerate(loaded) if not isinstance(one, str) for n in range(len(one))]

        def order(place: tuple[int, int]) -> tuple[Any, ...]:
            one = loaded[place[0]]
            assert not isinstance(one, str)
            return (*backend.sort_key(one[place[1]].seconds), place)

        sounds.sort(key=order)
        heard: dict[tuple[int, int], Hypothesis | str] = {}
        took: dict[int, float] = {}
        for batch in self._batches(backend, sounds, loaded):
            started = time.perf_counter()
            found = _carefully(backend, [loaded[i][n] for i, n in batch])  # type: ignore[misc]
            each = (time.perf_counter() - started) / len(batch)
            for place, one in zip(batch, found, strict=True):
                heard[place] = one
                took[place[0]] = took.get(place[0], 0.0) + each
        return [self._row(key, i, loaded[i], heard, took.get(i, 0.0)) for i, key in enumerate(keys)]

    def _batches(
        self, backend: Backend, places: Sequence[tuple[int, int]], loaded: Sequence[Any]
    ) -> Iterator[list[tuple[int, int]]]:
        batch: list[tuple[int, int]] = []
        kind: float | None = None
        for i, n in places:
            its = backend.sort_key(loaded[i][n].seconds)[0]
            if batch and (its != kind or len(batch) >= self.task.decoding.batch_size):
                yield batch
                batch = []
            kind = its
            batch.append((i, n))
        if batch:
            yield batch

    def _row(
        self, key: tuple[str, str], index: int, loaded: list[Sound] | str,
        heard: Mapping[tuple[int, int], Hypothesis | str], took_s: float,
    ) -> dict[str, Any]:  # fmt: skip
        name, condition = key
        utterance = self.task.test.utterances[name]
        row = {"name": name, "condition": condition}
        row |= {c: utterance.row.get(c) for c in ("language", "domain", "speaker") if utterance.row.get(c)}
        found = [heard[index, n] for n in range(len(loaded))] if not isinstance(loaded, str) else []
        wrong = loaded if isinstance(loaded, str) else next((one for one in found if isinstance(one, str)), "")
        texts = [one.text for one in found if isinstance(one, Hypothesis)] if not wrong else []
        more: dict[str, Any] = {"failed": wrong} if wrong else {}
        languages = {one.language for one in found if isinstance(one, Hypothesis) and one.language}
        if self.task.decoding.language == "detect" and len(languages) == 1:
            more["detected_language"] = languages.pop()
        return {
            **row, "seconds": round(utterance.duration_s, 3), "reference": utterance.row.text,
            "hypothesis": " ".join(filter(None, texts)), **more, "took_s": took_s,
        }  # fmt: skip


def _carefully(backend: Backend, sounds: Sequence[Sound]) -> list[Hypothesis | str]:
    """What is heard; where a batch fails each sound is tried alone, and what still fails is told as a text."""
    try:
        return list(backend.transcribe(sounds))
    except Exception as error:
        if len(sounds) == 1:
            return [f"{type(error).__name__}: {error}"]
    return [one for sound in sounds for one in _carefully(backend, [sound])]
