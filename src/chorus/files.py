"""Opening what somebody has named: regular files only, and of each no more than a stated limit.

A name may stand for a pipe, a device, a folder, a link to itself: what reads it waits for ever, or takes all memory.
So a name's kind and size are looked at before it is opened. What is too long is refused with its number (docs/cli.md
has the table), and nothing is read in order to find that out.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from chorus.errors import CheckpointError, ChorusError
from chorus.plain import JsonObject

# Bytes. Real ones: configs below 100 kB; indices of the largest models 10 MB; tokenizers 35 MB.
MAX_CONFIG, MAX_INDEX, MAX_TOKENIZER, MAX_RECIPE, MAX_FRONT = 10_000_000, 50_000_000, 200_000_000, 5_000_000, 1_000_000
LFS = b"version https://git-lfs.github.com/spec"  # how a pointer begins that Git LFS leaves in a file's place
MAX_LINE = 1_000_000  # of a manifest or of rows, in bytes
MAX_DEPTH = 100  # of maps and lists within each other, in JSON
SHOWN = 200  # characters of a name or value in a message

Refusal = Callable[[str, str], ChorusError]  # a message and a hint -> the error to raise


def present(path: Path) -> bool:
    """Whether anything stands at a name, a link to nowhere included: whoever then reads it is told what it is."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):  # too long, a NUL, no permission: the reading says which
        return True
    return True


def expanded(path: str | Path) -> Path:
    """A path with `~` as its user's home; of a user who is not known it stays as it is, and is not found later."""
    return Path(os.path.expanduser(path))  # Path.expanduser fails there


def regular(path: Path, *, raises: Refusal = CheckpointError, what: str = "file") -> os.stat_result:
    """The status of a regular file that may be read; any other thing is refused by what it is, before it is opened.

    `what` says in the message what was looked for. A link to a regular file is one.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise raises(f"{shown(path)}: {_reason(path, error)}", f"check the path of the {what}") from None
    if not stat.S_ISREG(status.st_mode):
        raise raises(f"{shown(path)}: {_kind(status.st_mode)}, not a file", f"give a regular file as {what}")
    if status.st_dev in _made_as_they_are_read():
        raise raises(f"{shown(path)}: not a file on a disk", f"give a regular file as {what}")
    return status


def _made_as_they_are_read() -> set[int]:
    """The devices of /proc and /sys, whose files say that they are regular and empty, and may have no end."""
    found = set()
    for root in ("/proc", "/sys"):
        try:
            found.add(os.stat(root).st_dev)
        except OSError:  # another system
            continue
    return found - {os.stat("/").st_dev}


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"


def _reason(path: Path, error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):  # Python's word for it is "embedded null byte"
        return "no name of a file"
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        return f"a link to {shown(os.readlink(path))}, which is not there"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if error.errno == errno.ELOOP:
        return "a link that leads to itself"
    return f"cannot be read ({error.strerror})"


def opened(path: Path, *, raises: Refusal = CheckpointError, what: str = "file") -> BufferedReader:
    """A regular file, open for reading bytes."""
    regular(path, raises=raises, what=what)
    try:
        return path.open("rb")
    except OSError as error:
        raise raises(f"{shown(path)}: cannot be read ({error.strerror})", f"check the path of the {what}") from None


def refuse_pointer(head: bytes, where: Path | str, *, raises: Refusal = CheckpointError) -> None:
    """Refuse a file that begins so where that is a Git LFS pointer."""
    if head.startswith(LFS):
        raise raises(
            f"{where}: a Git LFS pointer, which stands for a file that was not fetched",
            "fetch it with `git lfs pull`, or download the model with `hf download`",
        )


def read_bytes(path: Path, limit: int, *, raises: Refusal = CheckpointError, what: str = "file") -> bytes:
    """All of a regular file, which may have `limit` bytes."""
    with opened(path, raises=raises, what=what) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= limit:
            # one byte more than may be: it may have grown since
            data = file.read(limit + 1)
            size = len(data)
        if size > limit:
            raise raises(f"{shown(path)}: {size:,} bytes; the limit of a {what} is {limit:,}", f"is this a {what}?")
    return data


def read_text(
    path: Path, limit: int, *, raises: Refusal = CheckpointError, what: str = "file", encoding: str = "utf-8"
) -> str:
    """All of a regular text file, which may have `limit` bytes."""
    data = read_bytes(path, limit, raises=raises, what=what)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise raises(f"{shown(path)}: not UTF-8 text (byte {error.start:,})", "save it as UTF-8") from None


def read_lines(
    path: Path, *, longest: int = MAX_LINE, raises: Refusal = CheckpointError, what: str = "file"
) -> Iterator[tuple[int, str]]:
    """The numbered lines of a UTF-8 file, ends included, one at a time; broken at line feeds and nowhere else.

    A byte order mark at the beginning is left out.
    """
    number = 0
    with opened(path, raises=raises, what=what) as file:
        while raw := file.readline(longest + 1):
            number += 1
            if len(raw) > longest:
                raise raises(
                    f"{shown(path)}: line {number:,} has more than {longest:,} bytes, the limit of a line",
                    f"is this a {what}?",
                )
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                told = f"{shown(path)}: line {number:,} is not UTF-8 text ({_encoding(raw, error.start)})"
                raise raises(told, "save it as UTF-8") from None


def _encoding(raw: bytes, at: int) -> str:
    """What bytes that are no UTF-8 seem to be."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw:
        return "but UTF-16 or UTF-32"
    return f"byte 0x{raw[at]:02x}; perhaps Latin-1 or Windows-1252"


def read_json(
    path: Path, *, limit: int = MAX_CONFIG, raises: Refusal = CheckpointError, what: str = "JSON file"
) -> JsonObject:
    """The JSON object in a regular file."""
    value = parse_json(read_text(path, limit, raises=raises, what=what), path, raises=raises)
    if not isinstance(value, dict):
        raise raises(f"{shown(path)}: not a JSON object", "save or download it again")
    return value


def parse_json(text: str, where: Path | str, *, raises: Refusal = CheckpointError, unique: bool = False) -> Any:
    """What a JSON text says; refused where it is none, or nested so deeply that whoever walks it fails.

    `unique` refuses maps with the same key twice, of which JSON's readers take the last.
    """
    try:
        value = json.loads(text, object_pairs_hook=_once if unique else None)
        deep = _is_deep(value)
        _refuse_halves(text, value)
    except RecursionError:  # json's own limit, some hundreds deeper
        deep = True
    except ValueError as error:
        raise raises(f"{shown(where)}: not readable as JSON ({error})", "save or download it again") from None
    if deep:
        raise raises(f"{shown(where)}: maps and lists nested more than {MAX_DEPTH} deep, the limit", "do not use it")
    return value


def _once(pairs: list[tuple[str, Any]]) -> JsonObject:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"the key {shown(twice)} stands twice")
    return found


def _is_deep(value: object) -> bool:
    # level by level: whatever the depth, no stack grows
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for one in level
            if isinstance(one, dict | list)
            for child in (one.values() if isinstance(one, dict) else one)
        ]
    return bool(level)


def _refuse_halves(text: str, value: object) -> None:
    """`ValueError` where an escape is half of a pair: JSON takes it, but no file could be written with it."""
    if re.search(r"\\u[dD][89a-fA-F]", text):
        json.dumps(value, ensure_ascii=False).encode()


def shown(name: object) -> str:
    """A name or value as a message may hold it: cut where it is long, control characters as escapes.

    >>> shown("a\\x1b[31m" + "b" * 300)[:12]
    'a\\\\x1b[31mbbb'
    """
    text = str(name)
    if len(text) > SHOWN:
        text = f"{text[: SHOWN // 2]}...{text[-SHOWN // 4 :]} ({len(text):,} characters)"
    return printable(text)


def printable(text: str) -> str:
    r"""A text without what steers a terminal or turns the direction of writing; line ends and tabs stay.

    >>> printable("one\ntwo\x1b[2J")
    'one\ntwo\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(letter if letter in "\n\t" or not _steers(letter) else _escaped(letter) for letter in text)


def _steers(letter: str) -> bool:
    # controls, lone halves of pairs (which cannot be written at all), and what overrides the direction of writing
    overrides = "\u202a" <= letter <= "\u202e" or "\u2066" <= letter <= "\u2069"
    return overrides or unicodedata.category(letter) in ("Cc", "Cs")


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape", "surrogatepass").decode()
