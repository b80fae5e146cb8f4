"""Regular expressions from files (an adapter's `rank_pattern`, a recipe's roles): `re`'s answers, never for long.

`re` itself a pattern can keep busy for ever: `(.*)*x`, `(a|a)*x`. Here a pattern is a map from the places in a name
where it may begin to those where it may end, taken for all places at once; what that needs is bounded by the name's
length. Look-behinds, back references and names of groups have no such form and are refused; of the flags `(?i)` alone
is read, where a search begins with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import Generic, TypeVar

T = TypeVar("T")
Places = frozenset[int]
Part = Callable[[str, Places], Places]

MAX_LENGTH, MAX_DEPTH, MAX_PATTERNS, MAX_WORK = 1_000, 20, 20_000, 200_000
NO_FLAGS = re.RegexFlag(0)
PLAIN = re.compile(r"[\w\-.]*")  # the names of modules, as most patterns are: of these `re` makes short work
QUANTIFIER = re.compile(r"\*|\+|\?|\{(\d*)(,?)(\d*)\}")
CLASS = re.compile(r"\[\^?\]?(?:[^\]\\]|\\.)*\]")


class Patterns(Generic[T]):
    """What a config gives by pattern. `ValueError` names the pattern that cannot be matched."""

    def __init__(self, values: Mapping[str, T]) -> None:
        if len(values) > MAX_PATTERNS:
            raise ValueError(f"{len(values):,} patterns; at most {MAX_PATTERNS:,} are read")
        # the ending that a plain pattern asks for: most names are told apart by it, without a match
        self._known = [(_ending(p), matcher(p), value) for p, value in values.items()]

    def value(self, module: str, default: T) -> T:
        """The value of the first pattern that matches the end of the module's name."""
        # in the order of the config: PEFT takes the first that matches
        for ending, matches, value in self._known:
            if module.endswith(ending) and matches(module):
                return value
        return default


def _ending(pattern: str) -> str:
    return pattern.rpartition(".")[2] if PLAIN.fullmatch(pattern) else ""


def matcher(pattern: str) -> Callable[[str], bool]:
    r"""Whether a module's name is one that PEFT's `(.*\.)?(pattern)$` matches.

    >>> matcher("layers.[01].*_proj")("model.layers.1.q_proj"), matcher("(.*)*x")("a" * 99)
    (True, False)
    """
    _refuse_long(pattern)
    if PLAIN.fullmatch(pattern):
        plain = re.compile(rf"(.*\.)?({pattern})$")
        return lambda name: plain.match(name) is not None
    part = _part(pattern)

    # PEFT's `(.*\.)?` before it: it may begin where the name does, and behind every dot
    def matches(name: str) -> bool:
        begins = {i + 1 for i, letter in enumerate(name) if letter == "."}
        return len(name) in part(name, frozenset({0, *begins}))

    return matches


# a plan asks for one name as often as a recipe has models and settings
@lru_cache(maxsize=1 << 16)
def found_in(pattern: str, name: str) -> bool:
    r"""Whether a pattern is found anywhere in a name, as by `re.search`.

    `ValueError` where it is none that is read here, or takes too long.

    >>> found_in(r"layers\.\d+\.mlp", "model.layers.10.mlp.weight"), found_in("(a|a)*x", "a" * 99)
    (True, False)
    """
    return bool(_search(pattern)(name))


@lru_cache(maxsize=256)
def _search(pattern: str) -> Callable[[str], object]:
    _refuse_long(pattern)
    if PLAIN.fullmatch(pattern):
        return re.compile(pattern).search
    text = pattern.removeprefix("(?i)")
    part = _part(text, re.IGNORECASE if text != pattern else NO_FLAGS)
    return lambda name: part(name, frozenset(range(len(name) + 1)))


def _refuse_long(pattern: str) -> None:
    if len(pattern) > MAX_LENGTH:
        raise ValueError(f"a pattern of {len(pattern):,} characters; at most {MAX_LENGTH:,} are read")


def _part(pattern: str, flags: re.RegexFlag = NO_FLAGS) -> Part:
    parser = _Parser(pattern, flags)
    try:
        part = parser.parsed()
    except ValueError as error:
        raise ValueError(f"the pattern {pattern[:80]!r} {error}") from None

    def whole(name: str, places: Places) -> Places:
        parser.work = 0
        return part(name, places)

    return whole


class _Parser:
    """Recursive descent over one pattern; each method takes what it names off the rest of the text."""

    def __init__(self, text: str, flags: re.RegexFlag) -> None:
        self.text, self.flags, self.at, self.work = text, flags, 0, 0

    def parsed(self) -> Part:
        part = self._alternatives(0)
        if self.at < len(self.text):
            raise ValueError("has a bracket that was not opened")
        return part

    def _alternatives(self, depth: int) -> Part:
        if depth > MAX_DEPTH:
            raise ValueError(f"is nested more than {MAX_DEPTH} deep")
        found = [self._sequence(depth)]
        while self._takes("|"):
            found.append(self._sequence(depth))
        if len(found) == 1:
            return found[0]
        return lambda name, places: frozenset().union(*(part(name, places) for part in found))

    def _sequence(self, depth: int) -> Part:
        parts: list[Part] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            parts.append(self._repeated(self._atom(depth)))

        def one_after_the_other(name: str, places: Places) -> Places:
            for part in parts:
                if not places:
                    break
                places = part(name, places)
            return places

        return one_after_the_other

    def _atom(self, depth: int) -> Part:
        if self._takes("("):
            ahead = next((sign for sign in ("?=", "?!") if self._takes(sign)), "")
            if self.text.startswith("?", self.at) and not self._takes("?:"):
                raise ValueError("uses (?...), which is not matched here: write it without")
            inner = self._alternatives(depth + 1)
            if not self._takes(")"):
                raise ValueError("has a bracket that is not closed")
            return _looking(inner, wanted=ahead == "?=") if ahead else inner
        letter = self.text[self.at]
        if letter in "*+?":
            raise ValueError(f"has a {letter} with nothing to repeat")
        if letter in "^$":
            self.at += 1
            return lambda name, places: places & {0 if letter == "^" else len(name)}
        return self._character()

    def _character(self) -> Part:
        start = self.at
        if self.text[start] == "[":
            found = CLASS.match(self.text, start)
            if found is None:
                raise ValueError("has a class [...] that is not closed")
            self.at = found.end()
        elif self.text[start] == "\\":
            self.at += 2
            escaped = self.text[start + 1 : self.at]
            if escaped == "b":
                edge = re.compile(r"\b")
                return lambda name, places: frozenset(p for p in places if edge.match(name, p))
            if not escaped or (escaped.isalnum() and escaped not in "dDwWsS"):
                raise ValueError(f"uses \\{escaped}, which is not matched here")
        else:
            self.at += 1
        return _one_character(_single(self.text[start : self.at], self.flags))

    def _repeated(self, part: Part) -> Part:
        """The part as often as a quantifier behind it says; greedy or not, the places are the same."""
        found = QUANTIFIER.match(self.text, self.at)
        # to `re` a brace without a number is a letter
        if found is None or found[0] in ("{}", "{,}"):
            return part
        self.at = found.end()
        self._takes("?")
        if QUANTIFIER.match(self.text, self.at):
            raise ValueError("repeats a repetition")
        low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(found[0], (0, None))
        if found[0][0] == "{":
            low = int(found[1] or 0)
            high = (int(found[3]) if found[3] else None) if found[2] else low
        if high is not None and high < low:
            raise ValueError(f"repeats {found[0]}")
        return self._times(part, low, high)

    def _times(self, part: Part, low: int, high: int | None) -> Part:
        def repeated(name: str, places: Places) -> Places:
            for _ in range(low):
                self._count(places)
                after = part(name, places)
                # as often again would change nothing
                if after == places:
                    break
                places = after
            reached, new, left = places, places, high
            while new and (left is None or left > low):
                self._count(new)
                new = part(name, new) - reached
                reached |= new
                left = None if left is None else left - 1
            return reached

        return repeated

    def _count(self, places: Places) -> None:
        """Nested repetitions may multiply: bounded, whatever the name."""
        self.work += len(places) + 1
        if self.work > MAX_WORK:
            raise ValueError(f"the pattern {self.text[:80]!r} takes too long to match")

    def _takes(self, text: str) -> bool:
        if not self.text.startswith(text, self.at):
            return False
        self.at += len(text)
        return True


def _looking(inner: Part, *, wanted: bool) -> Part:
    """The places from where a pattern matches, or does not; none is left."""
    return lambda name, places: frozenset(p for p in places if bool(inner(name, frozenset({p}))) == wanted)


@cache
def _single(token: str, flags: re.RegexFlag) -> re.Pattern[str]:
    try:
        return re.compile(token if token[0] in "[\\." else re.escape(token), flags)
    except re.error as error:
        raise ValueError(f"is not a regular expression ({error})") from None


def _one_character(test: re.Pattern[str]) -> Part:
    return lambda name, places: frozenset(p + 1 for p in places if p < len(name) and test.fullmatch(name, p, p + 1))
