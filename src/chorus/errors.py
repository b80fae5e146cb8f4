"""The errors that Chorus raises for reasons its user can act on, each with its exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import ClassVar

SHOWN, LONGEST = 20, 600  # problems of a recipe in its message, and characters of one


class ChorusError(Exception):
    """What happened, in which file, tensor or key; and, as a hint, what to do about it.

    The command line prints message and hint without a traceback and leaves with `exit_code`.
    """

    exit_code: ClassVar[int] = 4

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class UsageError(ChorusError):
    """A flag or an argument is wrong."""

    exit_code = 2


class RecipeError(UsageError):
    """The recipe is wrong, whatever models it is applied to. Carries every problem found."""

    def __init__(self, problems: Sequence[str], hint: str = "", source: str = "recipe") -> None:
        self.problems = list(problems)
        told = [p if len(p) <= LONGEST else f"{p[:LONGEST]}..." for p in self.problems[:SHOWN]]
        if len(self.problems) == 1:
            text = f"{source}: {told[0]}"
        else:
            told += [f"and {len(self.problems) - SHOWN:,} more"] if len(self.problems) > SHOWN else []
            text = f"{source}: {len(self.problems):,} problems\n" + "\n".join(f"  - {p}" for p in told)
        super().__init__(text, hint)


class PlanError(RecipeError):
    """Recipe and models do not fit each other. Carries every problem found."""


class MissingExtraError(ChorusError):
    """A part of Chorus that is installed by an extra is missing."""

    exit_code = 3

    def __init__(self, extra: str, needed_for: str) -> None:
        self.extra, self.needed_for = extra, needed_for
        super().__init__(f"{needed_for} needs packages that are not installed", install_hint(extra))


class MissingPackageError(ChorusError):
    """A package that a setting asks for is missing, and is part of no extra."""

    exit_code = 3

    def __init__(self, package: str, needed_for: str) -> None:
        self.package = package
        super().__init__(f"{needed_for} needs {package}, which is not installed", f"pip install {package}")


class CheckpointError(ChorusError):
    """A model's files are missing, damaged, or not what they say they are."""


class DataError(ChorusError):
    """A manifest, a recording or a text is missing, damaged, or not fit for what was asked."""


class MisfitError(DataError):
    """What was asked for is not in the data, or two that were named do not fit each other: nothing is damaged."""

    exit_code = 2


class OutputError(ChorusError):
    """The result cannot be written: no room, no permission, or something is in the way."""


def install_hint(extra: str) -> str:
    """The line that installs an extra; the distribution is not called what the import is."""
    return f'pip install "chorus-merge[{extra}]"'


def some(names: Iterable[str], most: int = 3) -> str:
    """The first of several names, each once, and how many more there are.

    >>> some(["a", "b", "b", "c", "d"])
    'a, b, c and 1 more'
    """
    every = list(dict.fromkeys(names))
    more = f" and {len(every) - most:,} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that looks most like `name`, as a phrase to end a message with.

    >>> nearest("densty", ["density", "weight"])
    '; did you mean "density"?'
    """
    # sorted: of names as near the same is told every time
    names = sorted(known)
    # finds densty and lamda, not what shares an ending
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0.55)
    if matches:
        return f'; did you mean "{matches[0]}"?'
    return f"; known: {', '.join(names)}" if names else ""
