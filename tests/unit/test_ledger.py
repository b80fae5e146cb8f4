"""Lines that are believed only as they were written."""

from __future__ import annotations

import json
import os

import pytest

from chorus.errors import OutputError
from chorus.ledger import Ledger

ENTRIES = [{"name": "a", "loss": [0.1, 1e-300], "text": "š"}, {"name": "b"}, {"name": "c", "inputs": {"0:x": "f"}}]


@pytest.fixture
def path(tmp_path):
    ledger = Ledger(tmp_path / "ledger", "this", dict)
    for entry in ENTRIES:
        ledger.append(entry)
    ledger.close()
    return tmp_path / "ledger"


def entries(path, of="this"):
    return Ledger(path, of, dict).entries


def test_what_was_written_is_believed(path):
    assert entries(path) == ENTRIES
    assert Ledger(path, "this", dict, resume=False).entries == []


def test_another_work_s_entries_are_not_taken_over(path):
    other = Ledger(path, "that", dict)
    assert (other.entries, other.other) == ([], "this")
    other.start()
    other.close()
    assert path.read_text() == '{"of":"that"}\n'


def changed(line, change):
    """One line with its text changed, its digest as it was."""
    document = json.loads(line)
    change(document["entry"])
    return json.dumps(document)


@pytest.mark.parametrize(
    ("number", "change"),
    [
        (1, lambda line: line.replace("0.1", "0.2")),
        (1, lambda line: line[:-5]),
        (2, lambda line: changed(line, lambda entry: entry.update(more=1))),
        (2, lambda line: "null"),
        (2, lambda line: '{"entry": 3, "xxh3": "x"}'),
        (2, lambda line: '{"name": "b"}'),
        (2, lambda line: "[" * 100_000),
        (3, lambda line: changed(line, lambda entry: entry["inputs"].clear())),
    ],
)
def test_a_line_that_was_changed_does_not_count(path, number, change):
    lines = path.read_text().splitlines()
    lines[number] = change(lines[number])
    path.write_text("".join(f"{line}\n" for line in lines))
    assert entries(path) == [e for i, e in enumerate(ENTRIES, 1) if i != number]
    # and is not there any more once the file is gone on with
    ledger = Ledger(path, "this", dict)
    ledger.append({"name": "d"})
    ledger.close()
    assert entries(path) == [*(e for i, e in enumerate(ENTRIES, 1) if i != number), {"name": "d"}]
    assert path.read_text().count("\n") == 4


def test_a_line_of_another_file_does_not_count(path, tmp_path):
    other = Ledger(tmp_path / "other", "that", dict)
    other.append({"name": "z"})
    other.close()
    with path.open("a") as file:
        file.write((tmp_path / "other").read_text().splitlines(keepends=True)[1])
    assert entries(path) == ENTRIES


def test_a_first_line_that_is_damaged_costs_nothing_else(path):
    whole = path.read_bytes()
    path.write_bytes(b"\xff\x00" + whole)
    assert entries(path) == ENTRIES
    path.write_bytes(whole[whole.index(b"\n") + 1 :])
    assert entries(path) == ENTRIES


@pytest.mark.parametrize(
    ("form", "found"),
    [(dict[str, str], ENTRIES[1:2]), (list, []), (dict[str, str | list[float]], ENTRIES[:2]), (dict, ENTRIES)],
)
def test_an_entry_that_has_not_its_form_does_not_count(path, form, found):
    """Its digest may be right all the same: whoever wants to can make one."""
    assert Ledger(path, "this", form).entries == found


def test_a_line_without_end_is_not_waited_for(path):
    os.truncate(path, 1 << 40)
    assert entries(path) == ENTRIES


def test_a_ledger_is_a_file_of_its_own(path, tmp_path):
    outside = tmp_path / "outside"
    path.rename(outside)
    before = outside.read_bytes()
    path.symlink_to(outside)
    ledger = Ledger(path, "this", dict)
    ledger.append({"name": "d"})
    ledger.close()
    assert outside.read_bytes() == before, "a link is not written through"
    assert not path.is_symlink()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OutputError, match="a pipe, not a file"):
        Ledger(path, "this", dict)
