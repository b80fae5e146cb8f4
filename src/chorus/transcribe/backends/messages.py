"""What a runtime's parent process (isolated.py) and its child (worker.py) say to each other, a line of JSON each.

After a request to transcribe come the samples of its sounds, raw float32, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict

from chorus.data.manifest import Row
from chorus.errors import CheckpointError, ChorusError, DataError, MissingExtraError, UsageError
from chorus.models.times import Plain, as_plain, from_plain
from chorus.transcribe.backends.protocol import Hypothesis


class RowMessage(TypedDict):
    """What a runtime sees of a manifest's row."""

    path: str
    language: str
    text: str
    extra: dict[str, str]


class MakeCall(TypedDict):
    """Make the backend."""

    call: Literal["make"]
    settings: dict[str, object]


class CheckCall(TypedDict):
    """Backend.check."""

    call: Literal["check"]
    rows: list[RowMessage]


class SortKeyCall(TypedDict):
    """Backend.sort_key."""

    call: Literal["sort_key"]
    seconds: float


class TranscribeCall(TypedDict):
    """Backend.transcribe; `samples` says how many each sound has."""

    call: Literal["transcribe"]
    rows: list[RowMessage]
    samples: list[int]


Call = MakeCall | CheckCall | SortKeyCall | TranscribeCall


class ErrorMessage(TypedDict):
    """An error of ours by its class, or anything else by its message."""

    kind: str
    message: str
    hint: str
    needs: NotRequired[tuple[str, str]]  # of a missing extra: its name, and what for


class Reply(TypedDict, total=False):
    """One of these."""

    error: ErrorMessage
    facts: dict[str, str]
    longest_s: float | None
    long_form: bool
    key: tuple[float, float]
    hypotheses: list[tuple[str, str, bool, list[Plain]]]  # text, language, whether it was cut, segments


KINDS: dict[str, type[ChorusError]] = {
    kind.__name__: kind for kind in (ChorusError, DataError, CheckpointError, UsageError)
}


def told_row(row: Row) -> RowMessage:
    """A row for the child, under the name that messages use."""
    return {
        "path": str(row), "language": row.language, "text": row.text, "extra": {k: row.get(k) for k in row.extra}
    }  # fmt: skip


def row_of(message: RowMessage) -> Row:
    """The child's row."""
    return Row(**message)


def told_error(error: Exception) -> ErrorMessage:
    """An error for the parent."""
    if isinstance(error, MissingExtraError):
        return {"kind": "missing", "message": "", "hint": "", "needs": (error.extra, error.needed_for)}
    if isinstance(error, ChorusError) and type(error).__name__ in KINDS:
        return {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
    return {"kind": "ChorusError", "message": f"{type(error).__name__}: {error}", "hint": ""}


def error_of(message: ErrorMessage) -> ChorusError:
    """The parent's error."""
    if "needs" in message:
        return MissingExtraError(*message["needs"])
    return KINDS[message["kind"]](message["message"], message["hint"])


def told_hypotheses(hypotheses: Sequence[Hypothesis]) -> Reply:
    """What was said, for the parent."""
    return {"hypotheses": [(one.text, one.language, one.cut, as_plain(one.segments)) for one in hypotheses]}


def hypotheses_of(reply: Reply) -> list[Hypothesis]:
    """What a reply says that was said."""
    return [
        Hypothesis(text, language, cut, from_plain(segments)) for text, language, cut, segments in reply["hypotheses"]
    ]
