"""Small damages of files of JSON, drawn from a seed: of their text and of their values."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

STRANGE: list[Any] = [
    None, True, False, -1, 0, 7, 0.5, -2.5, 1e308, 10**30, float("nan"), float("inf"), "", "x", "7", [], {}, [None],
    {"a": 1}, "\x00", "../..", "a" * 400,
]  # fmt: skip
KEYS = ["", "x", "name", "__proto__"]


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path within a document, the document's own left out."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, child in children for path in [(*here, key), *places(child, (*here, key))]]


def changed(document: Any, rng: random.Random) -> Any:
    """The document with one value another, gone, doubled, or under another key."""
    made = copy.deepcopy(document)
    *path, key = rng.choice(places(made))
    inside = made
    for step in path:
        inside = inside[step]
    kind = rng.choice(("value", "value", "value", "number", "gone", "key", "more"))
    old = inside[key]
    if kind == "number" and isinstance(old, int | float) and not isinstance(old, bool):
        inside[key] = old + rng.choice((1, -1, 0.25))
    elif kind == "gone":
        del inside[key]
    elif kind == "key" and isinstance(inside, dict):
        inside[rng.choice(KEYS)] = inside.pop(key)
    elif kind == "more" and isinstance(inside, dict):
        inside[f"{key}s"] = old
    elif kind == "more":
        inside.append(old)
    else:
        inside[key] = rng.choice(STRANGE)
    return made


def torn(text: str, rng: random.Random) -> bytes:
    """The text cut short, with a byte another, with lines gone, doubled or exchanged, or something before it."""
    data, lines = text.encode(), text.splitlines(keepends=True)
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    place = rng.randrange(len(data))
    kinds: list[Callable[[], bytes]] = [
        lambda: data[:place],
        lambda: data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :],
        lambda: data[:place] + data[place + rng.randrange(1, 40) :],
        lambda: "".join(lines[:i] + lines[i + 1 :]).encode(),
        lambda: "".join(lines[: i + 1] + lines[i:]).encode(),
        lambda: "".join([*lines[:j], lines[i], *lines[j + 1 :]]).encode(),
        lambda: b"",
        lambda: b"\n" + data,
        lambda: b"\xff\xfe" + data,
        lambda: data + b"[" * 5000,
        lambda: data + rng.choice((b"null\n", b"{}\n", b"[]\n", b"7\n", b"\x00")),
    ]
    return rng.choice(kinds)()


def of_lines(text: str, rng: random.Random) -> bytes:
    """JSON lines of which one is changed."""
    lines = text.splitlines()
    i = rng.randrange(len(lines))
    lines[i] = json.dumps(changed(json.loads(lines[i]), rng), ensure_ascii=False)
    return ("\n".join(lines) + "\n").encode()


def of_document(text: str, rng: random.Random) -> bytes:
    """A JSON document of which one value is changed."""
    return (json.dumps(changed(json.loads(text), rng), ensure_ascii=False) + "\n").encode()
