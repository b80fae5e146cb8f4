"""What is opened: regular files alone, no more of them than their limit, and told by what they are."""

from __future__ import annotations

import os
import socket

import pytest

from chorus.documents import MAX_NODES, parse_yaml, read_yaml
from chorus.errors import CheckpointError, DataError, RecipeError
from chorus.files import (
    MAX_DEPTH,
    expanded,
    parse_json,
    present,
    printable,
    read_bytes,
    read_json,
    read_lines,
    regular,
    shown,
)


@pytest.fixture
def things(tmp_path, monkeypatch):
    """One of each kind of thing that a name may stand for."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("none")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("{}")
    (tmp_path / "linked").symlink_to("file")
    monkeypatch.chdir(tmp_path)  # a socket's address is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        yield tmp_path


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("pipe", "a pipe, not a file"),
        ("loop", "a link that leads to itself"),
        ("nowhere", "a link to none, which is not there"),
        ("zero", "a device, not a file"),
        ("folder", "a directory, not a file"),
        ("socket", "a socket, not a file"),
        ("missing", "no such file"),
        ("file/below", "Not a directory"),
        ("n" * 300, "File name too long"),
        ("nul\0", "no name of a file"),
        ("/proc/self/mem", "not a file on a disk"),
    ],
)
def test_what_is_no_file_is_refused_by_what_it_is(things, name, told):
    for read in (read_json, regular, lambda path: read_bytes(path, 10), lambda path: list(read_lines(path))):
        with pytest.raises(CheckpointError, match=told):
            read(things / name)


def test_a_file_and_a_link_to_one_are_read(things):
    assert read_json(things / "file") == read_json(things / "linked") == {}
    assert regular(things / "linked").st_size == 2


def test_a_link_to_nowhere_is_not_taken_for_nothing(things):
    assert [present(things / name) for name in ("file", "nowhere", "loop", "pipe", "missing", "file/below")] == [
        True, True, True, True, False, False,
    ]  # fmt: skip


def test_no_more_is_read_than_the_limit(tmp_path):
    path = tmp_path / "long"
    path.write_bytes(b"1234\n56\n")
    assert read_bytes(path, 8) == b"1234\n56\n"
    with pytest.raises(DataError, match="8 bytes; the limit of a card is 7"):
        read_bytes(path, 7, raises=DataError, what="card")
    assert list(read_lines(path, longest=5)) == [(1, "1234\n"), (2, "56\n")]
    with pytest.raises(CheckpointError, match="line 1 has more than 4 bytes"):
        list(read_lines(path, longest=4))
    os.truncate(path, 1 << 40)  # a hole of a terabyte takes no room
    with pytest.raises(CheckpointError, match="1,099,511,627,776 bytes; the limit"):
        read_json(path)


def test_lines_end_at_line_feeds_alone(tmp_path):
    (tmp_path / "rows").write_text("\ufeffone\u2028still\vone\ntwo", encoding="utf-8")
    assert list(read_lines(tmp_path / "rows")) == [(1, "one\u2028still\vone\n"), (2, "two")]
    (tmp_path / "rows").write_bytes(b"one\n\xff\n")
    with pytest.raises(CheckpointError, match="line 2 is not UTF-8"):
        list(read_lines(tmp_path / "rows"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1]", "not a JSON object"),
        ("{", "not readable as JSON"),
        ('{"a": ' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}", "100 deep"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "100 deep"),
        ('{"a": ' + "9" * 5000 + "}", "not readable as JSON"),
        ('{"a": "\\ud83d"}', "surrogates not allowed"),
    ],
)
def test_json_that_is_refused(tmp_path, text, told):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CheckpointError, match=told):
        read_json(tmp_path / "a.json")


def test_a_key_that_stands_twice_is_found_among_many():
    text = "{" + ", ".join(f'"k{i}": 1' for i in range(200_000)) + ', "k199999": 2}'
    with pytest.raises(CheckpointError, match="the key k199999 stands twice"):
        parse_json(text, "rows", unique=True)
    assert parse_json(text, "rows")["k199999"] == 2


def test_json_that_is_taken(tmp_path):
    nested = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    (tmp_path / "a.json").write_text('{"a": "\\ud83d\\ude00", "b": Infinity, "c": ' + nested + "}")
    assert read_json(tmp_path / "a.json")["a"] == "\U0001f600"


def test_names_are_shown_without_what_steers_a_terminal():
    assert printable("\x1b[2Ja\x00\x9b\u202eb\ud800\n") == "\\x1b[2Ja\\x00\\x9b\\u202eb\\ud800\n"
    assert printable("čárka 字 😀") == "čárka 字 😀"
    assert len(shown("n" * 10_000)) < 250
    assert shown("n" * 10_000).endswith("(10,000 characters)")


def test_the_home_of_nobody_is_no_fault():
    assert str(expanded("~nobody-of-this-name/a")) == "~nobody-of-this-name/a"


# ---- YAML ----

LAUGH = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)
)
MERGES = "a: &a {" + ", ".join(f"k{i}: 1" for i in range(10)) + "}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 10)}]}}\n" for a, b in zip("abcdef", "bcdefg", strict=True)
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: !!int abc", "line 1: abc is not of the type int"),
        ("a: !!float abc", "line 1: abc is not of the type float"),
        ("a: !!bool perhaps", "line 1: perhaps is not of the type bool"),
        ("b: 1\na: !!int " + "9" * 5000, "line 2: 9999"),
        ("a: !!timestamp soon", "type tag:yaml.org,2002:timestamp is not taken"),
        ("a: !!set {x, y}", "type tag:yaml.org,2002:set is not taken"),
        ("a: !!binary AAAA", "type tag:yaml.org,2002:binary is not taken"),
        ("? [a, b]\n: 1", "a key must be a text or a number"),
        ("a: &a [*a]", "an alias stands inside what it stands for"),
        ("a: \0", "not readable as YAML"),
        (LAUGH, "too much aliased"),
        (MERGES, "too much aliased"),
        ("a: [" + "1, " * MAX_NODES + "]", "limits: 100,000 nodes"),
        ("\n".join(f"k: {i}" for i in range(30_000)), "'k' stands twice"),
    ],
)  # fmt: skip
def test_yaml_that_is_refused(text, told):
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, "a.yml")
    assert told in str(caught.value)
    assert len(str(caught.value)) < 500


def test_yaml_that_is_taken(tmp_path):
    (tmp_path / "a.yml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nd: 2024-13-45\ne: [*a, *a]\n")
    (found,) = read_yaml(tmp_path / "a.yml")
    assert found["b"] == {"x": 1, "y": 3}
    assert found["d"] == "2024-13-45"
    assert found["e"] == [{"x": 1, "y": 2}] * 2


def test_many_keys_take_no_time_that_grows_with_their_square():
    (found,) = parse_yaml("\n".join(f"k{i}: {i}" for i in range(40_000)), "a.yml")
    assert len(found) == 40_000
