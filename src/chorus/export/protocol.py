"""What a format of export is, and what is asked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from chorus.checkpoints.model import Model
from chorus.plain import JsonObject
from chorus.progress import Progress

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

# what a setting is called on the command line and in Python, for messages
FLAGS = {
    "trim_vocabulary": "--trim-vocab (trim_vocabulary)", "max_shard_bytes": "--max-shard-size (max_shard_bytes)",
    "modelfile": "--modelfile", "pre_tokenizer": "--pre-tokenizer", "measured": "--results (measured)",
}  # fmt: skip


@dataclass(frozen=True)
class ExportOptions:
    """How a model is written.

    trim_vocabulary: rows of the vocabulary that no token stands for, and that no training touched, may go.
    max_shard_bytes: largest weight file, where a format has several.
    modelfile: Ollama's file beside it.
    pre_tokenizer: GGUF's name of what cuts a text before its tokens, where it is not the model's usual one.
    measured: results of evaluations, for the card.
    """

    trim_vocabulary: bool = False
    max_shard_bytes: int | None = None
    modelfile: bool = False
    pre_tokenizer: str = ""
    measured: tuple[EvalResult, ...] = ()

    @property
    def given(self) -> set[str]:
        """Names of the settings that are not as they are by default."""
        plain = ExportOptions()
        return {name for name in vars(self) if getattr(self, name) != getattr(plain, name)}


@dataclass(frozen=True)
class Requirement:
    """Something that must hold before a model can be written: it does where `problem` is empty."""

    what: str
    problem: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Making:
    """What came of it: facts for the sidecar, what there is to think about, Ollama's Modelfile where one is wanted.

    The first `{file}` of that stands for the name of the file that it is beside.
    hashes: XXH3-128 of a type's file, where the writing found it: then it is not read again.
    """

    facts: JsonObject = field(default_factory=dict)
    warnings: Sequence[str] = ()
    modelfile: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)


class Exporter(Protocol):
    """A format. Nothing is imported for it before it is asked to `check` or `write`."""

    covers: str  # which models it takes and for which runtime, for people
    types: Mapping[str, str]  # number type -> what it is
    default: str  # the type that is meant where none is named
    suffix: str  # of the file that it writes; empty where that is a directory
    uses: frozenset[str]  # of `ExportOptions`; others are refused

    def check(self, model: Model, types: Sequence[str], options: ExportOptions) -> list[Requirement]:
        """Everything that must hold, whether it does or not; no weight is read but where a check needs a few."""
        ...

    def nbytes(self, model: Model, kind: str, options: ExportOptions) -> int:
        """What the result will take, near enough for a look at the disk."""
        ...

    def ours(self, path: Path) -> bool:
        """Whether a file that is there is one of this format, which `--overwrite` may replace."""
        ...

    def write(self, model: Model, places: Mapping[str, Path], options: ExportOptions, progress: Progress) -> Making:
        """Write each type to its place: a file that is not there yet, or a directory that is empty.

        Every tensor is read once, however many types there are. Raises `ChorusError`; the caller takes away what is
        half written.
        """
        ...
