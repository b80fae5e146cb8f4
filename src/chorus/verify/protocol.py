"""What a format brings to be verified: small functions, one for each level."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from chorus.checkpoints.model import Model
from chorus.verify.verdict import Verdict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chorus.data.audio import Audio
    from chorus.transcribe.backends.protocol import Backend
    from chorus.transcribe.decoding import Decoding

    Floats = NDArray[np.float32]


@dataclass(frozen=True)
class TensorProof:
    """One tensor of an export beside the source's.

    same    whether its bytes are those that the source's values make in its type; None where only the error tells
    error   root mean square of the difference to the source, relative to the source's own
    problem what is wrong with it; empty where it holds
    """

    name: str
    kind: str
    same: bool | None
    error: float
    problem: str = ""


class Native(Protocol):
    """A runtime's own numbers for an export; in a process of its own, a context manager."""

    @property
    def versions(self) -> Mapping[str, str]: ...

    def logits(self, tokens: Sequence[int], *, mel: Floats | None = None) -> Floats:
        """[tokens, vocabulary]: after each token, given those before it and, to hear, a log-mel spectrum."""
        ...

    def __enter__(self) -> Native: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


class Hearer(Protocol):
    """A runtime's own front end; in a process of its own, a context manager."""

    @property
    def special_ids(self) -> Mapping[str, int]: ...

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Each text as it cuts it; special tokens in it are text."""
        ...

    def log_mel(self, audio: Audio) -> Floats:
        """[mel bins, frames] of audio at 16 kHz and of silence after it."""
        ...

    def __enter__(self) -> Hearer: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True)
class Client:
    """A runtime that an export is for, under the name of its backend (chorus.transcribe).

    `package` is what pip installs for it, and `installed` whether that is there; `forced` opens its own numbers for the
    export, where it gives them, and `front_end` looks at what it does before the model. `opens` opens a backend of the
    export, where the one of this name does not open the path itself. `decoding` are settings of its decoding
    (chorus.Decoding) that this export asks for. `hears_otherwise` says why its transcripts need not be transformers',
    letter for letter, whatever the export; empty where they must.
    """

    name: str
    package: str
    installed: Callable[[], bool]
    forced: Callable[[], Native] | None = None
    front_end: Callable[[FrontEndOf], Iterator[Verdict]] | None = None
    opens: Callable[[Decoding], Backend] | None = None
    decoding: Mapping[str, object] = field(default_factory=dict)
    hears_otherwise: str = ""


@dataclass(frozen=True)
class FrontEndOf:
    """The source's own front end: `ids` of its tokenizer, its tokens; of one that hears `log_mel` of a sound."""

    ids: Callable[[str], list[int]]
    tokens: Mapping[str, int]
    log_mel: Callable[[Audio], Floats] | None = None
    sound: Audio | None = None


@dataclass
class Subject:
    """An export that was read: what each level looks at.

    kind: the number type of its matrices, by which its logits have bounds (logits.py); `exact` where it is none of
    quantised values. `structure` and `tensors` are gone through once. `filters` and `tokens` (bytes by id) are
    its front end's, where it holds one. `nbytes` is what it takes, `predicted` what it should take, `as_float16` what
    it would take in float16.
    """

    path: Path
    format: str
    kind: str
    exact: bool
    structure: Iterable[Verdict]
    tensors: Iterable[TensorProof]
    clients: Sequence[Client]
    filters: Floats | None = None
    tokens: Sequence[bytes] | None = None
    nbytes: int = 0
    predicted: int | None = None
    as_float16: int | None = None


class Verifier(Protocol):
    """A format that can be verified. One file a format; others' come from the entry-point group `chorus.verifiers`."""

    def takes(self, path: Path) -> bool:
        """Whether a path is in this format."""
        ...

    def open(self, path: Path, source: Model) -> Subject:
        """The export beside its source.

        `CheckpointError` where it cannot be followed to its end; `OtherSourceError` where the source is of a kind that
        this format does not hold.
        """
        ...
