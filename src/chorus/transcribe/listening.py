"""One system hears recordings, one after the other: texts, and when each was said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from chorus.data.manifest import Row
from chorus.data.utterance import Utterance
from chorus.models.times import Segment, in_ms
from chorus.plain import JsonObject
from chorus.progress import Progress
from chorus.runtime import quiet_libraries
from chorus.transcribe.backends.protocol import Hypothesis, Sound
from chorus.transcribe.conditions import CLEAN
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.recordings import Recording
from chorus.transcribe.request import Request
from chorus.transcribe.systems import System
from chorus.transcribe.test_sets import TestSet, looked_at
from chorus.transcribe.transcriber import Decoder, hypotheses_or_reason, load_backend


@dataclass(frozen=True)
class Transcription:
    """What was heard in a recording; `failed` says why nothing was, `cut` that a limit of new tokens ended a text.

    `language` is the code that it was decoded in, where the runtime tells; `segments` are in seconds of the recording.
    """

    name: str
    text: str = ""
    language: str = ""
    seconds: float = 0.0
    segments: tuple[Segment, ...] = ()
    failed: str = ""
    cut: bool = False

    def as_json(self) -> JsonObject:
        """For a JSON document: the keys are openai-whisper's, and what it has no keys for."""
        found: JsonObject = {"name": self.name, "language": self.language, "seconds": round(self.seconds, 3)}
        found |= {"text": self.text, "segments": [_plain(i, one) for i, one in enumerate(self.segments)]}
        return found | ({"failed": self.failed} if self.failed else {}) | ({"cut": True} if self.cut else {})


def _plain(number: int, segment: Segment) -> JsonObject:
    found: JsonObject = {"id": number, "start": segment.start, "end": segment.end, "text": segment.text}
    if segment.words:
        found["words"] = [
            {"word": w.text, "start": w.start, "end": w.end}
            | ({"probability": w.probability} if w.probability is not None else {})
            for w in segment.words
        ]
    return found


@dataclass(frozen=True)
class Listener:
    """A system, a runtime and a decoding, to which recordings are given."""

    system: System
    decoding: Decoding
    backend: str = "transformers"
    device: str = "cpu"

    def hear(
        self, found: Sequence[Recording], progress: Progress = lambda done, total: None
    ) -> Iterator[Transcription]:
        """What is heard in each, in their order, batch by batch. One that cannot be read ends nothing."""
        # what is wrong with a file is known before a model is loaded
        seen = looked_at([Row(str(one.path.absolute())) for one in found])
        good = {str(i): one for i, one in enumerate(seen) if isinstance(one, Utterance)}
        heard = self._heard(TestSet(good)) if good else iter(())  # a generator: nothing is loaded yet
        progress(0, len(found))
        for i, (recording, one) in enumerate(zip(found, seen, strict=True), 1):
            yield named(recording, one if isinstance(one, str) else next(heard))
            progress(i, len(found))

    def _heard(self, test: TestSet) -> Iterator[Transcription]:
        request = Request(self.system, test, self.decoding, backend=self.backend, device=self.device)
        with quiet_libraries():
            backend = load_backend(request)
            try:
                backend.check([u.row for u in test.utterances.values()])
                # in the order of the line and not by length, few at a time: whoever waits reads the first file first
                decoder = Decoder(request, backend, self.decoding.batch_size)
                for part in decoder.decoded([(name, CLEAN) for name in test.utterances]):
                    for (name, _), loaded, pieces in part:
                        found = hypotheses_or_reason(loaded, pieces)
                        seconds = test.utterances[name].duration_s
                        if isinstance(found, str) or isinstance(loaded, str):
                            yield Transcription("", seconds=seconds, failed=str(found))
                        else:
                            yield joined(loaded, found, seconds)
            finally:
                backend.close()


def named(recording: Recording, found: Transcription | str) -> Transcription:
    """What came of a recording under its own name, which its reasons need not tell again."""
    if isinstance(found, str):
        found = Transcription("", failed=found)
    failed = found.failed.removeprefix(f"{recording.path.absolute()}: ")
    return replace(found, name=recording.name, failed=failed)


def joined(sounds: Sequence[Sound], found: Sequence[Hypothesis], seconds: float) -> Transcription:
    """The pieces of a recording as one text, each segment where it stands in the whole."""
    segments: list[Segment] = []
    for sound, one in zip(sounds, found, strict=True):
        told = one.segments
        if not told and one.text:  # a runtime that knows no times: the piece is what it heard the text in
            told = (Segment(0.0, in_ms(sound.seconds), one.text),)
        segments += [segment.later(sound.start_s) for segment in told]
    languages = {one.language for one in found if one.language}
    return Transcription(
        "", " ".join(one.text for one in found if one.text), languages.pop() if len(languages) == 1 else "", seconds,
        tuple(segments), cut=any(one.cut for one in found),
    )  # fmt: skip
