"""Regular expressions of a recipe, which may be somebody else's: those that could take for ever are told apart."""

from __future__ import annotations

import re

MAX_LENGTH, MAX_REPETITIONS = 1000, 5
LETTER = re.compile(r"\\.|\[\^?\]?(?:[^\]\\]|\\.)*\]")  # an escape, or a class
GROUP = re.compile(r"\(([^()]*)\)([*+]|\{\d*,?\d*\})?")  # the innermost
REPETITION = re.compile(r"[*+]|\{\d*,?\d*\}")


def takes_long(pattern: str) -> bool:
    r"""Whether a search may go back and forth without end; `re.error` where it is no regular expression.

    >>> takes_long("(.*)*x"), takes_long("(a|b)+"), takes_long(r"layers\.[0-9]+\.mlp")
    (True, False, False)
    """
    if len(pattern) > MAX_LENGTH:
        return True
    re.compile(pattern)
    text = LETTER.sub("a", pattern)
    if len(REPETITION.findall(text)) > MAX_REPETITIONS:
        return True
    while found := GROUP.search(text):
        inner = REPETITION.search(found[1]) is not None
        if inner and found[2]:
            return True
        # for the group around it this one is a letter, repeated or not
        text = text[: found.start()] + ("a+" if inner or found[2] else "a") + text[found.end() :]
    return False
