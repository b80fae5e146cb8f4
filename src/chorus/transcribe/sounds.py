"""The audio of a request: read ahead of the decoder, made harder by its condition, cut at pauses where asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from chorus.data.audio import RATE
from chorus.errors import DataError, UsageError
from chorus.tasks.protocol import Chooses
from chorus.tasks.registry import TASKS
from chorus.transcribe.backends.protocol import Backend, Loaded, Sound
from chorus.transcribe.conditions import CLEAN, under
from chorus.transcribe.request import Key, Request
from chorus.transcribe.segments import pieces, stretches

AHEAD_S = 600.0  # seconds of audio that are read ahead of the decoder
LOADERS = 4
KEPT_H = 1.0  # hours of audio, all conditions together, that stay in memory for the next system: 230 MB
DEFAULT_LONGEST_S = 30.0  # of a piece, where a runtime takes any length


class Sounds:
    """Reads what a backend decodes next while it decodes what was read before: at most `most` recordings at a time."""

    def __init__(self, request: Request, backend: Backend, most: int | None = None) -> None:
        self.request, self._most = request, most
        self._longest = round((backend.longest_s or DEFAULT_LONGEST_S) * RATE)
        kind = request.decoding.segments
        if kind == "native" and not backend.long_form:
            raise UsageError(f"{request.system.label} has no long form of its own", "use --segments auto or vad")
        asks = isinstance(TASKS.get(request.decoding.task), Chooses)
        self._whole = asks and backend.longest_s is not None and not backend.long_form
        if asks and kind == "vad":
            raise UsageError("a question has one answer, and --segments vad cuts recordings", "leave it out")
        self._cuts = kind == "auto" and not backend.long_form and backend.longest_s is not None

    def ahead(self, keys: Sequence[Key]) -> Iterator[tuple[Sequence[Key], list[Loaded]]]:
        """The keys in parts, each with its sounds; the next part is being read while one is with the caller."""
        parts = list(self._parts(keys))
        with ThreadPoolExecutor(LOADERS, thread_name_prefix="audio") as pool:
            coming: list[Future[Loaded]] = []
            for part, after in zip([[], *parts], [*parts, []], strict=True):
                ready, coming = coming, [pool.submit(self._load, key) for key in after]
                if part:
                    yield part, [one.result() for one in ready]

    def _parts(self, keys: Sequence[Key]) -> Iterator[list[Key]]:
        """As many utterances as fill some batches and are not too long together."""
        part: list[Key] = []
        seconds = 0.0
        for key in keys:
            length = self.request.test.utterances[key[0]].duration_s
            if part and self._enough(len(part), seconds + length):
                yield part
                part, seconds = [], 0.0
            part.append(key)
            seconds += length
        if part:
            yield part

    def _enough(self, count: int, seconds: float) -> bool:
        """Whether so many utterances are a part by themselves, where the next would make it so long."""
        size = self.request.decoding.batch_size
        # what is longer than a window is decoded by itself: a batch of hours would only be held in memory
        whole = count >= size or seconds > size * DEFAULT_LONGEST_S
        return (self._most is not None and count >= self._most) or (whole and seconds > AHEAD_S)

    def _load(self, key: Key) -> Loaded:
        """The sounds of an utterance under a condition, kept for the next system where that takes little room."""
        test = self.request.test
        place = (key, self.request.decoding.segments, self._cuts, self._longest)
        found = test.kept.get(place)
        if found is None:
            found = self._sounds(key)
            if test.hours * len(self.request.conditions) <= KEPT_H:
                test.kept[place] = found
        return found

    def _sounds(self, key: Key) -> Loaded:
        name, condition = key
        utterance = self.request.test.utterances[name]
        try:
            content = utterance.key()
            audio = under(utterance.audio(), condition, content)
        except DataError as error:  # a header that reads and a body that does not
            return error.message
        except (ArithmeticError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
            return f"{name}: {type(error).__name__}: {error}"  # one recording ends no evaluation, whatever it holds
        content = content if condition == CLEAN else f"{content}|{condition}"
        if self._whole and len(audio) > self._longest:  # the answers of its pieces would be none of the whole
            return f"{name}: {len(audio) / RATE:.1f} s, and the model takes {self._longest / RATE:g} s of one question"
        if self.request.decoding.segments == "vad" or (self._cuts and len(audio) > self._longest):
            cut = pieces(audio, self._longest / RATE)
            return [
                Sound(audio[first:last], utterance.row, f"{content}|vad{i}", first / RATE)
                for i, (first, last) in enumerate(cut)
            ]
        parts = stretches(audio)
        if len(parts) == 1:
            return [Sound(audio, utterance.row, content)]
        return [
            Sound(audio[first:last], utterance.row, f"{content}|long{i}", first / RATE)
            for i, (first, last) in enumerate(parts)
        ]
