"""L3 to L5 of one runtime: an export loaded there, given tokens, sounds and silence, and timed."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from chorus.data.manifest import Row
from chorus.errors import ChorusError, MissingExtraError
from chorus.lazy import lazy
from chorus.models.features import RATE
from chorus.runtime import quiet_libraries
from chorus.transcribe.backends.choose import BACKENDS
from chorus.transcribe.backends.protocol import Hypothesis, Sound
from chorus.transcribe.systems import open_system
from chorus.transcribe.transcriber import carefully
from chorus.verify.cost import Spent, spent
from chorus.verify.front_end import front_end_of
from chorus.verify.logits import logits, timestamps_known
from chorus.verify.protocol import Client, Subject
from chorus.verify.transcripts import MODES, SILENCE_S, Bound, Heard, silence, times, transcripts
from chorus.verify.verdict import Verdict, fails, skipped

if TYPE_CHECKING:
    import numpy as np

    from chorus.transcribe.backends.protocol import Backend
    from chorus.transcribe.decoding import Decoding
    from chorus.verify.original import Forcing, Original
else:
    np = lazy("numpy")

FORCED = 8  # recordings that logits are compared on
WINDOW_S = 30
NO_SOUND = "no recordings: give AUDIO or --data MANIFEST"


def told(level: int, what: str, found: Iterator[Verdict]) -> Iterator[Verdict]:
    """What a runtime raises is a check that fails: a damaged file, or the end of its process, with its signal."""
    try:
        yield from found
    # first: it is a ChorusError as well, and what is not installed has not failed
    except MissingExtraError as error:
        yield skipped(level, what, str(error))
    except ChorusError as error:
        yield fails(level, what, error.message)


@dataclass
class Hearing:
    """The source and some sounds, and what the source makes of them, found once for all runtimes."""

    original: Original
    sounds: Sequence[Sound]
    modes: Sequence[bool]  # without timestamps, with them
    bound: Bound
    level: int
    _heard: dict[bool, Heard] = field(default_factory=dict)

    @cached_property
    def forcings(self) -> list[Forcing]:
        return [self.original.forcings(sound) for sound in self.sounds[:FORCED]]

    @cached_property
    def closings(self) -> list[Forcing]:
        return [self.original.forcings(sound, closing=True) for sound in self.sounds[:FORCED]]

    @property
    def silent(self) -> Sound:
        language = next((sound.row.language for sound in self.sounds if sound.row.language), "en")
        return Sound(np.zeros(int(SILENCE_S * RATE), np.float32), Row("silence", language=language), "silence")

    def heard(self, mode: bool) -> Heard:
        """What the source writes of every sound and, last, of silence."""
        if mode not in self._heard:
            self._heard[mode] = self.original.transcripts([*self.sounds, self.silent], timestamps=mode)
        return self._heard[mode]

    def taught(self) -> Iterator[Verdict]:
        """Whether the source itself knows timestamps, where they are asked for."""
        if True in self.modes and self.sounds:
            yield timestamps_known(self.closings, self.original.first_timestamp)

    def of(self, subject: Subject, client: Client) -> Iterator[Verdict]:
        """All levels of one runtime."""
        if client.front_end is not None:
            yield from told(2, f"front end of {client.name}", client.front_end(front_end_of(self.original)))
        if self.level >= 3:
            yield from told(3, f"forced logits in {client.name}", self._logits(subject, client))
        if self.level >= 4:
            yield from told(4, f"decodes in {client.name}", self._transcripts(subject, client))

    def _logits(self, subject: Subject, client: Client) -> Iterator[Verdict]:
        what = f"forced logits in {client.name}"
        if client.forced is None:
            yield skipped(3, what, "it gives none")
        elif not self.sounds:
            yield skipped(3, what, NO_SOUND)
        else:
            with client.forced() as native:
                yield from logits(native, self.forcings, subject.kind, client.name)

    def _transcripts(self, subject: Subject, client: Client) -> Iterator[Verdict]:
        ready_s, decode_s = [], 0.0
        bound = replace(self.bound, otherwise=client.hears_otherwise)
        for mode in self.modes:
            where = f"in {client.name}, {MODES[mode]}"
            # the times of segments are told too, where they are the model's own
            asked = {**client.decoding, "timestamps": mode, "detail": "segments" if mode else "text"}
            settings = self.original.decoding.model_copy(update=asked)
            started = time.perf_counter()
            with quiet_libraries():
                backend = _backend(subject, client, settings)
                try:
                    ready_s.append(time.perf_counter() - started)
                    started = time.perf_counter()
                    mine: list[Hypothesis | str] = [one for s in self.sounds for one in carefully(backend, [s])]
                    decode_s += time.perf_counter() - started
                    quiet = carefully(backend, [self.silent])[0]
                finally:
                    backend.close()
            theirs = self.heard(mode)
            if self.sounds:
                yield from transcripts(self.sounds, theirs[:-1], mine, where, bound)
                if mode:
                    yield times(self.sounds, mine, where)
            else:
                yield skipped(4, f"transcripts {where}", NO_SOUND)
            yield silence(theirs[-1], quiet, where)
        if self.level >= 5:
            audio_s = len(self.modes) * sum(sound.seconds for sound in self.sounds)
            yield spent(Spent(min(ready_s), decode_s, audio_s, peak_bytes()), client.name)


def _backend(subject: Subject, client: Client, settings: Decoding) -> Backend:
    """The runtime's decoder of the very file that ships."""
    if client.opens is not None:
        return client.opens(settings)
    return BACKENDS.get(client.name)(open_system(subject.path), settings, "cpu")


def peak_bytes() -> int | None:
    """The most memory that any child process of this one has had; None before the first has ended."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return found * (1 if sys.platform == "darwin" else 1024) or None  # kilobytes, but not on macOS


def windowed(sound: Sound) -> Sound:
    """Of a longer sound its first half minute, without a text: runtimes cut long audio each in its own way."""
    if sound.seconds <= WINDOW_S:
        return sound
    return replace(sound, audio=sound.audio[: WINDOW_S * RATE], row=replace(sound.row, text=""))
