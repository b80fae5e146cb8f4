"""Texts that go round in circles, as decoders do that have lost the sound: in words, and in scripts without them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from chorus.tasks.normalise import keeping_marks

LONGEST_WORDS, TIMES = 8, 4  # up to eight words, four times or more: nobody is taken for a loop who says no, no, no
# the scripts of Tibetan, Thai, Lao, Burmese, Khmer, the Tai languages, Javanese, Japanese and Chinese
LETTER = (
    "[\u0e01-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u1aad\ua980-\ua9ff\uaa60-\uaa7f\u3005-\u3007\u3040-\u312f"
    "\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U000323af]"
)
# sixty letters are eight words and more; of one or two letters as many as laughter and calls have not (hahahaha)
ROUND = re.compile(rf"({LETTER})\1{{11,}}|({LETTER}{{2}})\2{{5,}}|({LETTER}{{3,60}}?)\3{{{TIMES - 1},}}")


def without_spaces(text: str) -> bool:
    """Whether most of a text's letters are of scripts that put no spaces between words."""
    letters = [c for c in text if c.isalpha()]
    return 2 * len(re.findall(LETTER, "".join(letters))) > len(letters)


def is_loop(text: str) -> bool:
    """Whether the same words, or the same letters of a script without spaces, stand four times or more in a row.

    >>> [is_loop(text) for text in ("no no no no", "seven seven seven", "\u8bf7\u4e0d\u541d\u70b9\u8d5e" * 4)]
    [True, False, True]
    """
    words = keeping_marks(text).split()
    return any(_repeats(words, length) for length in range(1, LONGEST_WORDS + 1)) or bool(ROUND.search("".join(words)))


def _repeats(words: Sequence[str], length: int) -> bool:
    same = 0
    for i in range(len(words) - length):
        same = same + 1 if words[i] == words[i + length] else 0
        if same == length * (TIMES - 1):
            return True
    return False
