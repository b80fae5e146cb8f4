"""Labels in what a model wrote: which of a row's choices a free answer is.

Rule: the whole answer, or what stands behind its last colon, is a label; else the longest label that stands in it as
whole words, of equally long ones the first; else none. Case, punctuation and runs of spaces do not count. Of labels
that are letters, where several stand, the first counts that cannot be the English words A and I: those are labels at
the end of a line or before punctuation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Sequence

from chorus.errors import DataError
from chorus.files import shown
from chorus.tasks.loops import LETTER
from chorus.tasks.normalise import keeping_marks

BETWEEN = "|"  # of the choices in one cell of a table
LETTERS = re.compile("[A-Z]")  # choices that are named by letters: "a" in a text is an article
ENGLISH = ("A", "I")  # letters that are words too
ENDED = re.compile(r"[^\S\n]*([^\w\s'\u2019]|\n|$)")  # behind a letter that is none: I'd is one


def choices_of(cell: str, where: object, task: str) -> tuple[str, ...]:
    """The labels in a cell of a manifest, a JSON list or `yes|no`; `DataError` names row and task where they are none.

    >>> choices_of("yes|no", "a.wav", "custom"), choices_of('["on", "one"]', "a.wav", "custom")
    (('yes', 'no'), ('on', 'one'))
    """
    if not cell.strip():
        return ()
    found: object = cell.split(BETWEEN)
    if cell.lstrip().startswith("["):
        try:
            found = json.loads(cell)
        except ValueError:
            raise DataError(
                f"{where}: task {task}: choices are no JSON list", 'write ["yes", "no"] or yes|no'
            ) from None
    if not isinstance(found, list) or not all(isinstance(one, str | int | float) for one in found):
        raise DataError(f"{where}: task {task}: choices are no list of texts", 'write ["yes", "no"] or yes|no')
    labels = tuple(" ".join(str(one).split()) for one in found)
    check_labels(labels, where, task)
    return labels


def check_labels(labels: Sequence[str], where: object, task: str) -> None:
    """`DataError` for labels that no answer could tell apart, or that no answer could be."""
    seen: dict[str, str] = {}
    for label in labels:
        plain = _plain(label, labels)
        if not plain:
            raise DataError(f'{where}: task {task}: "{shown(label)}" is no label', "give each choice letters or digits")
        if plain in seen:
            raise DataError(
                f'{where}: task {task}: "{shown(seen[plain])}" and "{shown(label)}" are the same choice',
                "case and punctuation tell no labels apart: leave one out",
            )
        seen[plain] = label
    if len(labels) == 1:
        raise DataError(f'{where}: task {task}: one choice alone ("{shown(labels[0])}")', "give at least two choices")


def label_in(text: str, labels: Sequence[str]) -> str:
    """The label that a free answer is; empty where it is none.

    >>> label_in("The keyword is: One.", ("on", "one")), label_in("unknown", ("no", "yes"))
    ('one', '')
    """
    plain = {_plain(label, labels): label for label in labels}
    for part in (text, text.rpartition(":")[2]):
        if (whole := _plain(part, labels)) in plain:
            return plain[whole]
    if _by_letters(labels):
        return plain.get(_letter_in(text, plain), "")
    said = f" {_plain(text, labels)} "
    places = [(-len(one), place, one) for one in plain if (place := _place(one, said)) >= 0]
    return plain[min(places)[2]] if places else ""


def _letter_in(text: str, letters: Container[str]) -> str:
    """The first of some letters that stands as a word in a text, of English words only where there is no other."""
    found = [one for one in re.finditer(r"\w+", text) if one[0] in letters]
    sure = [one for one in found if one[0] not in ENGLISH or ENDED.match(text, one.end())]
    return next((one[0] for one in sure or found), "")


def _by_letters(labels: Sequence[str]) -> bool:
    return all(LETTERS.fullmatch(label.strip()) for label in labels)


def _place(label: str, said: str) -> int:
    """Where a label stands in a text; -1 where it does not."""
    # scripts without spaces have no words that could be whole
    return said.find(label) if re.search(LETTER, label) else said.find(f" {label} ")


def _plain(text: str, labels: Sequence[str]) -> str:
    """A text as labels are compared; of letters alone their case counts."""
    if _by_letters(labels):
        return " ".join(re.findall(r"\w+", text))
    return keeping_marks(text.replace("_", " ").replace("-", " "))
