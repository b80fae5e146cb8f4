"""The cache on disk by itself: keys, limits, what goes first, what is damaged, many threads and two processes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from chorus import cache as module
from chorus.cache import CONVERTED, DEFAULT_LIMIT, Cache, cache_key, directory, limit_bytes
from chorus.errors import UsageError

ENTRY = {"s": torch.arange(250.0)}  # 1000 bytes, 2024 as counted
COUNTED = 2024


def keys(count):
    return [cache_key(number=i) for i in range(count)]


def touch(store, key, when):
    os.utime(store._path(key), (when, when))


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("CHORUS_CACHE", "~/mine")
    assert directory() == Path.home() / "mine"
    monkeypatch.delenv("CHORUS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert directory() == tmp_path / "chorus"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert directory() == Path.home() / ".cache" / "chorus"


@pytest.mark.parametrize(("written", "size"), [("", DEFAULT_LIMIT), ("0", 0), ("2GB", 2 * 10**9), ("1GiB", 2**30)])
def test_how_large_it_may_grow(monkeypatch, written, size):
    monkeypatch.setenv("CHORUS_CACHE_LIMIT", written)
    assert limit_bytes() == size


def test_a_limit_that_is_no_size(monkeypatch):
    monkeypatch.setenv("CHORUS_CACHE_LIMIT", "lots")
    with pytest.raises(UsageError, match="CHORUS_CACHE_LIMIT=lots") as caught:
        limit_bytes()
    assert "20GB" in caught.value.hint


def test_what_is_put_is_found_again_by_another_run(tmp_path):
    key = cache_key(of="this")
    Cache(tmp_path, 10**6).put(key, {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor(True)})
    store = Cache(tmp_path, 10**6)
    found = store.get(key)
    assert torch.equal(found["a"], torch.arange(6.0).reshape(2, 3).T)
    assert found["b"].item() is True
    assert (store.hits, store.misses) == (1, 0)
    assert store.get(cache_key(of="that")) is None
    assert (store.hits, store.misses) == (1, 1)


def test_keys_are_of_the_facts_and_of_the_format(monkeypatch):
    assert cache_key(a=1, b=[2]) == cache_key(b=(2,), a=1)
    before = cache_key(a=1)
    monkeypatch.setattr(module, "FORMAT", module.FORMAT + 1)
    assert cache_key(a=1) != before


def flipped(path):
    """One bit of the last value."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def rewritten(value):
    """The same file with other numbers, whole by all that its header says."""

    def change(path):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        save_file({"s": torch.full((250,), value)}, path, metadata)

    return change


def replaced(make):
    return lambda path: (path.unlink(), make(path))


DAMAGES = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "one bit": flipped,
    "zeros": rewritten(0.0),
    "NaN": rewritten(float("nan")),
    "no digest": lambda path: save_file(ENTRY, path),
    "other shape": lambda path: save_file({"s": torch.ones(2, 5)}, path),
    "other names": lambda path: save_file({"t": ENTRY["s"]}, path),
    "a pipe": replaced(os.mkfifo),
    "a folder": replaced(Path.mkdir),
    "a device": replaced(lambda path: path.symlink_to("/dev/zero")),
    "a terabyte": lambda path: os.truncate(path, 1 << 40),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_entry_that_is_not_as_it_was_written_is_a_miss_and_can_be_put_again(tmp_path, capsys, damage):
    store, (key,) = Cache(tmp_path, 10**6), keys(1)
    store.put(key, ENTRY)
    DAMAGES[damage](store._path(key))
    other = Cache(tmp_path, 10**6)
    assert other.get(key) is None
    assert (other.misses, other.damaged) == (1, int(damage != "gone"))
    assert (f"warning: {store._path(key)}: an entry of the cache that is damaged" in capsys.readouterr().err) == (
        damage != "gone"
    )
    other.put(key, ENTRY)  # but for a folder, which nobody is to lose
    again = Cache(tmp_path, 10**6).get(key)
    assert (again is None) if damage == "a folder" else torch.equal(again["s"], ENTRY["s"])
    assert list(tmp_path.rglob("*.part")) == []


def test_a_cache_that_may_only_be_read_is_read(tmp_path, capsys, monkeypatch):
    (key,) = keys(1)
    Cache(tmp_path, 10**6).put(key, ENTRY)

    def refuse(path):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(module.os, "utime", refuse)
    store = Cache(tmp_path, 10**6)
    assert torch.equal(store.get(key)["s"], ENTRY["s"])
    assert (store.hits, store.damaged) == (1, 0)
    assert capsys.readouterr().err == ""


def test_an_entry_under_another_s_name_is_a_miss(tmp_path):
    store, (key, other) = Cache(tmp_path, 10**6), keys(2)
    store.put(key, ENTRY)
    store._path(other).parent.mkdir(exist_ok=True)
    store._path(key).rename(store._path(other))
    assert store.get(other) is None
    assert store.damaged == 1


def test_of_many_damaged_entries_one_line_is_told(tmp_path, capsys):
    store, wanted = Cache(tmp_path, 10**6), keys(5)
    for key in wanted:
        store.put(key, ENTRY)
        flipped(store._path(key))
    assert [store.get(key) for key in wanted] == [None] * 5
    assert capsys.readouterr().err.count("warning") == 1


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    old = Cache(tmp_path, 10**6)
    first, second, third, fourth = keys(4)
    for when, key in enumerate((first, second, third)):
        old.put(key, ENTRY)
        touch(old, key, 1000 + when)
    assert old.get(first) is not None  # used just now
    sizes = sum(p.stat().st_size for p in tmp_path.rglob("*.safetensors"))
    store = Cache(tmp_path, sizes + COUNTED - 1)
    store.put(fourth, ENTRY)
    assert {key for key in (first, second, third, fourth) if store._path(key).exists()} == {first, third, fourth}


def test_what_this_run_has_used_or_made_stays(tmp_path):
    a, b, c = keys(3)
    store = Cache(tmp_path, 2 * COUNTED)
    store.put(a, ENTRY)
    store.put(b, ENTRY)
    store.put(c, ENTRY)
    assert store.refused == 1
    assert [store._path(k).exists() for k in (a, b, c)] == [True, True, False]


def test_a_run_that_needs_more_than_there_is_chases_nothing_out(tmp_path):
    a, b = keys(2)
    Cache(tmp_path, 2 * COUNTED).put(a, ENTRY)
    large = Cache(tmp_path, COUNTED + 100, needed=10 * COUNTED)
    large.put(b, ENTRY)
    assert large.refused == 1
    assert large._path(a).exists()


def test_an_entry_larger_than_the_limit_is_refused(tmp_path):
    store, (key,) = Cache(tmp_path, COUNTED - 1), keys(1)
    store.put(key, ENTRY)
    assert store.refused == 1
    assert store.get(key) is None
    assert Cache(tmp_path, 0).usage().entries == 0


def test_putting_again_counts_once(tmp_path):
    store, (key,) = Cache(tmp_path, 3 * COUNTED), keys(1)
    for _ in range(5):
        store.put(key, ENTRY)
    assert (store._used, store.refused) == (COUNTED, 0)


def test_a_full_disk_is_no_error_and_frees_what_was_counted(tmp_path, monkeypatch):
    store, (key,) = Cache(tmp_path, 10**6), keys(1)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "replace", full)
    store.put(key, ENTRY)
    assert store._used == 0
    assert store.get(key) is None


def test_threads_may_put_and_get_at_once(tmp_path):
    store = Cache(tmp_path, 40 * COUNTED)
    wanted = keys(30)

    def work(i):
        store.put(wanted[i], {"s": torch.full((250,), float(i))})
        return store.get(wanted[i])["s"][0].item()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(30))) == list(range(30))
    assert store._used == 30 * COUNTED
    assert list(tmp_path.rglob("*.part")) == []


def test_two_runs_see_each_others_entries(tmp_path):
    a, b = keys(2)
    one, other = Cache(tmp_path, 10**6), Cache(tmp_path, 10**6)
    one.put(a, ENTRY)
    other.put(b, ENTRY)
    assert one.get(b) is not None
    assert other.get(a) is not None


def test_an_entry_that_another_process_takes_away_is_not_counted(tmp_path, monkeypatch):
    store, (key,) = Cache(tmp_path, 10**6), keys(1)
    store.put(key, ENTRY)
    path, real = store._path(key), Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **more: missing() if self == path else real(self, **more))

    def missing():
        raise FileNotFoundError

    assert Cache(tmp_path, 10**6).usage().entries == 0


def test_usage_and_clearing_know_drafts_and_converted_models(tmp_path):
    store, (key,) = Cache(tmp_path, 10**6), keys(1)
    store.put(key, ENTRY)
    draft = store._path(key).with_suffix(".part")
    draft.write_bytes(b"half")
    (tmp_path / CONVERTED / "model").mkdir(parents=True)
    (tmp_path / CONVERTED / "model" / "model.bin").write_bytes(b"x" * 500)
    size = store._path(key).stat().st_size + 500
    usage = store.usage()
    assert (usage.entries, usage.bytes, usage.limit_bytes) == (2, size, 10**6)
    assert store.clear() == size
    assert (store.usage().entries, draft.exists(), (tmp_path / CONVERTED).exists()) == (0, False, False)
    assert Cache(tmp_path / "none", 10**6).clear() == 0
