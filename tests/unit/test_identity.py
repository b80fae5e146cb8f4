"""What a thing is by content: the same whatever it is called, another when a byte changes."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest

from chorus import identity


def test_a_file_is_its_bytes(tmp_path):
    one, two = tmp_path / "one.bin", tmp_path / "two.bin"
    data = bytes(range(256)) * 5000  # more than one piece
    assert len(data) > identity.PIECE
    one.write_bytes(data)
    two.write_bytes(data)
    assert identity.file_hash(one) == identity.file_hash(two) == identity.bytes_hash(data)
    assert identity.file_sha256(one) == hashlib.sha256(data).hexdigest()


def test_a_file_that_has_changed_is_read_again(tmp_path):
    path = tmp_path / "one.bin"
    path.write_bytes(b"a")
    os.utime(path, ns=(0, 0))
    before = identity.file_hash(path)
    path.write_bytes(b"b")
    os.utime(path, ns=(0, 1))  # of the same size
    assert identity.file_hash(path) == identity.bytes_hash(b"b") != before


def test_a_file_that_has_not_changed_is_read_once(tmp_path, monkeypatch):
    path = tmp_path / "one.bin"
    path.write_bytes(b"a")
    known = identity.file_hash(path)
    monkeypatch.setattr(identity, "_read_into", lambda *given: pytest.fail("read again"))
    assert identity.file_hash(path) == known


def test_bytes_are_hashed_piece_by_piece_as_at_once():
    found = identity.digest()
    for piece in (b"one ", b"", b"and ", b"another"):
        found.update(piece)
    assert found.hexdigest() == identity.bytes_hash(b"one and another")
    assert identity.bytes_hash(np.arange(3, dtype=np.uint8).data) == identity.bytes_hash(b"\0\1\2")


def test_equal_facts_make_equal_keys():
    key = identity.fingerprint(path=Path("a/b"), shape=(2, 3), settings={"y": None, "x": 0.5})
    assert re.fullmatch("[0-9a-f]{40}", key)
    assert key == identity.fingerprint(settings={"x": 0.5, "y": None}, shape=[2, 3], path="a/b")
    others = [{"x": 0.5}, {"x": 0.25, "y": None}, {"x": "0.5", "y": None}]
    assert key not in {identity.fingerprint(settings=s, shape=[2, 3], path="a/b") for s in others}


def test_a_fact_without_a_lasting_text_is_no_part_of_a_key():
    with pytest.raises(TypeError, match="no lasting text"):
        identity.fingerprint(thing=object())  # its repr holds an address


def test_numbers_for_draws_stay_what_they_are():
    """Masks, noises and voices come from these: another number is another merge, another test condition."""
    assert identity.number_of("0|dare_ties|1|model.layers.0.weight") == 5940993139145143977


def test_hashes_are_made_in_one_place():
    sources = sorted((Path(__file__).parents[2] / "src" / "chorus").rglob("*.py"))
    assert len(sources) > 200
    made = [p.name for p in sources if re.search(r"\b(hashlib|xxhash)\b[.\"]", p.read_text(encoding="utf-8"))]
    assert made == ["identity.py"]
