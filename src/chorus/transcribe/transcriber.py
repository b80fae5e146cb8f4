"""Decodes what a partial result lacks, in batches of like length, and makes rows of the hypotheses."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from chorus.errors import ChorusError
from chorus.progress import Progress
from chorus.runtime import quiet_libraries
from chorus.tasks.protocol import Chooses
from chorus.tasks.registry import TASKS
from chorus.tasks.scored import Answer
from chorus.transcribe.backends.choose import BACKENDS
from chorus.transcribe.backends.protocol import Backend, Hypothesis, Loaded, Sound
from chorus.transcribe.decoding import DETECT
from chorus.transcribe.partial import Partial
from chorus.transcribe.request import Key, Request
from chorus.transcribe.sounds import Sounds

MOST_LABELS, LIKELIEST = 100, 10  # whose scores a row keeps, all of them or these
Place = tuple[int, int]  # (utterance of a part, piece of it)
Pieces = list[tuple[Hypothesis | str, float]]  # what came of each piece, or why nothing did; seconds it took
Decoded = dict[Place, tuple[Hypothesis | str, float]]


def load_backend(request: Request) -> Backend:
    """The request's runtime with its system loaded."""
    with quiet_libraries():
        return BACKENDS.get(request.backend)(request.system, request.decoding, request.device)


class Decoder:
    """Decodes the recordings of a request with a loaded backend, at most `most` of them at a time."""

    def __init__(self, request: Request, backend: Backend, most: int | None = None) -> None:
        self.request, self.backend, self._most = request, backend, most

    def decoded(self, keys: Sequence[Key]) -> Iterator[list[tuple[Key, Loaded, Pieces]]]:
        """Some recordings after the other in the order of the keys: what was read of each, and what came of that."""
        for part, loaded in Sounds(self.request, self.backend, self._most).ahead(keys):
            found = self._decode(loaded)
            yield [
                (key, one, [] if isinstance(one, str) else [found[i, n] for n in range(len(one))])
                for i, (key, one) in enumerate(zip(part, loaded, strict=True))
            ]

    def _decode(self, loaded: Sequence[Loaded]) -> Decoded:
        """Every piece of some utterances: in batches of one kind, the longest first."""
        sounds = {
            (i, n): sound for i, one in enumerate(loaded) if not isinstance(one, str) for n, sound in enumerate(one)
        }
        found: Decoded = {}
        for batch in self._batches(sounds):
            started = time.perf_counter()
            hypotheses = carefully(self.backend, [sounds[place] for place in batch])
            each_s = (time.perf_counter() - started) / len(batch)
            found |= {place: (one, each_s) for place, one in zip(batch, hypotheses, strict=True)}
        return found

    def _batches(self, sounds: dict[Place, Sound]) -> Iterator[list[Place]]:
        batch: list[Place] = []
        kind: float | None = None
        sort_key = self.backend.sort_key
        for place in sorted(sounds, key=lambda place: (*sort_key(sounds[place].seconds), place)):
            its = sort_key(sounds[place].seconds)[0]
            if batch and (its != kind or len(batch) >= self.request.decoding.batch_size):
                yield batch
                batch = []
            kind = its
            batch.append(place)
        if batch:
            yield batch


class Transcriber:
    """Transcribes a request into a partial result. A `backend` that is given has loaded the system, and stays open."""

    def __init__(self, request: Request, partial: Partial, backend: Backend | None = None) -> None:
        self.request, self.partial, self.backend = request, partial, backend
        self.task = TASKS.get(request.decoding.task)

    def run(self, progress: Progress) -> dict[str, str]:
        """Returns the backend's facts; empty where everything was decoded already."""
        request = self.request
        keys = request.keys
        left = [key for key in keys if key not in self.partial.rows]
        progress(len(keys) - len(left), len(keys))
        if not left:
            return {}
        with quiet_libraries():
            backend = self.backend or load_backend(request)
            try:
                backend.check([u.row for u in request.test.utterances.values()])
                left.sort(key=lambda key: (*backend.sort_key(request.test.utterances[key[0]].duration_s), key))
                for part in Decoder(request, backend).decoded(left):
                    self.partial.add(self._row(*one) for one in part)
                    progress(sum(key in self.partial.rows for key in keys), len(keys))
            finally:
                if backend is not self.backend:
                    backend.close()
        return dict(backend.facts)

    def _row(self, key: Key, loaded: Loaded, parts: Pieces) -> Answer:
        name, condition = key
        utterance = self.request.test.utterances[name]
        heard = hypotheses_or_reason(loaded, parts)
        found, wrong = ([], heard) if isinstance(heard, str) else (heard, "")
        row: Answer = {
            "name": name, "condition": condition, "language": utterance.row.language, "domain": utterance.row.domain,
            "speaker": utterance.row.speaker, "seconds": round(utterance.duration_s, 3),
            "reference": self.task.reference(utterance.row),
            "hypothesis": " ".join(one.text for one in found if one.text), "took_s": sum(s for _, s in parts),
        }  # fmt: skip
        if isinstance(self.task, Chooses):
            put_labels(row, self.task.labels(utterance.row), found)
        written = self.task.written(utterance.row)
        languages = {one.language for one in found if one.language}
        if written != utterance.row.language:
            row["written"] = written
        if wrong:
            row["failed"] = wrong
        if any(one.cut for one in found):
            row["cut"] = True
        if self.request.decoding.language == DETECT and len(languages) == 1:
            row["detected_language"] = languages.pop()
        return row


def put_labels(row: Answer, labels: Sequence[str], found: Sequence[Hypothesis]) -> None:
    """Tell in a row which labels there were, and how likely; of very many the likeliest and the right one."""
    if 0 < len(labels) <= MOST_LABELS:
        row["choices"] = list(labels)
    # of pieces of a recording no label's odds are known
    scores = found[0].scores if len(found) == 1 else {}
    kept = sorted(scores, key=lambda label: -scores[label][0])
    kept = kept if len(kept) <= MOST_LABELS else [*kept[:LIKELIEST], *({row["reference"]} & set(kept[LIKELIEST:]))]
    if kept:
        row["scores"] = {label: list(scores[label]) for label in kept}


def hypotheses_or_reason(loaded: Loaded, parts: Pieces) -> list[Hypothesis] | str:
    """What was heard in all pieces of a recording, or why one of them failed."""
    if isinstance(loaded, str):
        return loaded
    wrong = next((one for one, _ in parts if isinstance(one, str)), "")
    return wrong or [one for one, _ in parts if isinstance(one, Hypothesis)]


def carefully(backend: Backend, sounds: Sequence[Sound]) -> list[Hypothesis | str]:
    """A hypothesis for each; where a batch fails each sound is tried alone, and why one still fails is a text."""
    try:
        return list(backend.transcribe(sounds))
    except Exception as error:  # whatever a runtime raises is told, and counted
        if len(sounds) == 1:
            return [error.message if isinstance(error, ChorusError) else f"{type(error).__name__}: {error}"]
    return [one for sound in sounds for one in carefully(backend, [sound])]
