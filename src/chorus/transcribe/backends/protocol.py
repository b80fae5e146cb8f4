"""What a runtime must offer, whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from chorus.data.manifest import Row
from chorus.models.limits import PROMPT as PROMPT
from chorus.models.times import Segment

if TYPE_CHECKING:
    from chorus.checkpoints.lazy_tensor import LazyTensor
    from chorus.data.audio import Audio
    from chorus.transcribe.decoding import Decoding


@dataclass(frozen=True)
class Sound:
    """What is to be transcribed: samples at 16 kHz, the row that they belong to, and what they are by content.

    `start_s` is where it begins in its recording, of which it may be a piece.
    """

    audio: Audio = field(repr=False)
    row: Row
    key: str = ""
    start_s: float = 0.0

    @property
    def seconds(self) -> float:
        return len(self.audio) / 16_000


Loaded = list[Sound] | str  # the pieces of an utterance, or why there are none


@dataclass(frozen=True)
class Hypothesis:
    """What a runtime made of a sound; `language` is the one that it decoded in, where the runtime tells.

    `cut`: it stopped at the limit of new tokens, before its end.
    `segments` say when, in seconds of the sound: where the decoding asks for that detail and the runtime knows it.
    `scores` say how likely each label is, of a task whose answers are labels: where the runtime can tell.
    """

    text: str
    language: str = ""
    cut: bool = False
    segments: tuple[Segment, ...] = ()
    scores: Mapping[str, tuple[float, int]] = field(default_factory=dict)  # label -> log-probability, and its tokens


class Decodes(Protocol):
    """A loaded model in the process that it lives in (see isolated.py, which is a backend for others)."""

    longest_s: float | None  # of audio that it takes at once; None: any length
    long_form: bool  # whether it decodes longer audio by itself
    facts: dict[str, str]  # versions and settings that a result should name

    def sort_key(self, seconds: float) -> tuple[float, float]:
        """Sounds with near keys make good batches; those that differ in the first number share none."""
        ...

    def check(self, rows: Sequence[Row]) -> None:
        """`DataError` where a row cannot be decoded as it is, such as without a language."""
        ...

    def transcribe(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        """A hypothesis for each sound, in order."""
        ...

    def close(self) -> None:
        """Give memory and processes back."""
        ...


class Backend(Decodes, Protocol):
    """A loaded model. `transcribe` may raise: the caller then tries the sounds one by one."""

    def replace(self, tensors: Mapping[str, LazyTensor]) -> None:
        """Take other weights of the same names and shapes, in place.

        `CheckpointError`, and nothing is changed, where this runtime or this model cannot: the caller loads it anew.
        """
        ...


@runtime_checkable
class AsksAnew(Protocol):
    """A backend whose model, once loaded, serves any decoding: another task, other limits."""

    def under(self, decoding: Decoding) -> Backend:
        """A backend of the same model in memory under another decoding; one of the two is closed, not both."""
        ...
