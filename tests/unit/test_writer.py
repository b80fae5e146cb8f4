"""Output that appears whole or not at all: locks, resumes, full disks, and bytes by offset."""

from __future__ import annotations

import errno
import fcntl
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from chorus.checkpoints import writer
from chorus.checkpoints.writer import OutputFile, PartialDirectory, appearing_whole, explained, write_text
from chorus.errors import OutputError


def begin(final, *, resume=False, overwrite=False, work=""):
    return PartialDirectory(final, resume=resume, overwrite=overwrite, work=work)


# ---- the directory ----


def test_it_gets_its_name_when_it_is_whole(tmp_path):
    final = tmp_path / "deep" / "model"
    made = begin(final)
    (made.path / "a.txt").write_text("a")
    (made.path / ".journal").write_text("of the work")
    assert not final.exists()
    assert made.path.name == "model.partial"
    made.finish((".journal", ".not-there"))
    assert {p.name for p in final.iterdir()} == {"a.txt"}
    assert not made.path.exists()


def test_an_empty_directory_is_taken_and_a_full_one_is_not(tmp_path):
    final = tmp_path / "model"
    final.mkdir()
    begin(final).finish(())
    (final / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists and is not empty") as caught:
        begin(final)
    assert "--overwrite" in caught.value.hint
    assert not (tmp_path / "model.partial").exists()


def test_a_file_of_that_name_is_not_taken_away(tmp_path):
    final = tmp_path / "model"
    final.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        begin(final)
    assert final.read_text() == "mine"


def test_overwriting_keeps_the_old_until_the_new_is_whole(tmp_path):
    final = tmp_path / "model"
    final.mkdir()
    (final / "old.txt").write_text("old")
    (final / "chorus.json").write_text("{}")
    made = begin(final, overwrite=True)
    (made.path / "new.txt").write_text("new")
    assert (final / "old.txt").exists()
    made.finish(())
    assert {p.name for p in final.iterdir()} == {"new.txt"}
    assert {p.name for p in tmp_path.iterdir()} == {"model"}


def test_what_a_replacement_left_behind_is_in_no_ones_way(tmp_path):
    """Killed between the two renames: the old one stays beside as `.replaced`, and goes with the next."""
    final = tmp_path / "model"
    for place in (final, tmp_path / "model.replaced"):
        place.mkdir()
        (place / "chorus.json").write_text("{}")
    begin(final, overwrite=True).finish(())
    assert {p.name for p in tmp_path.iterdir()} == {"model"}


def test_only_results_are_replaced(tmp_path):
    """Of several models too, but of no others: a slip in the name of an output costs nobody's files."""
    final = tmp_path / "work"
    (final / "a").mkdir(parents=True)
    (final / "b").mkdir()
    (final / "a" / "chorus.json").write_text("{}")
    for parts in ((), ("a",), ("a", "b")):
        with pytest.raises(OutputError, match=r"work: no result of Chorus \(a and 1 more in it, no chorus.json\)"):
            PartialDirectory(final, resume=False, overwrite=True, parts=parts)
    assert {p.name for p in tmp_path.iterdir()} == {"work"}
    (final / "b" / "chorus.json").write_text("{}")
    PartialDirectory(final, resume=False, overwrite=True, parts=("b", "a", "c")).finish(())
    assert not any(final.iterdir())
    (final / "chorus.json").write_text("{}")
    begin(final, overwrite=True).finish(())


def test_what_stands_where_the_old_result_goes_is_nobodys_loss(tmp_path):
    final, aside = tmp_path / "model", tmp_path / "model.replaced"
    final.mkdir()
    (final / "chorus.json").write_text("{}")
    aside.mkdir()
    (aside / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"model\.replaced: no result of Chorus \(mine.txt in it"):
        begin(final, overwrite=True)
    (aside / "mine.txt").rename(tmp_path / "mine.txt")
    aside.rmdir()
    (tmp_path / "mine.txt").rename(aside)
    with pytest.raises(OutputError, match=r"model\.replaced: is in the way"):
        begin(final, overwrite=True)
    assert aside.read_text() == "mine"


@pytest.mark.parametrize(("resume", "overwrite"), [(True, False), (False, True), (True, True)])
def test_an_unfinished_one_is_gone_on_with_or_begun_again(tmp_path, resume, overwrite):
    final = tmp_path / "model"
    made = begin(final)
    (made.path / "half.bin").write_text("half")
    (made.path / "folder").mkdir()
    made.release()
    with pytest.raises(OutputError, match="an unfinished result is there"):
        begin(final)
    again = begin(final, resume=resume, overwrite=overwrite)
    assert (again.path / "half.bin").exists() == resume
    assert (again.path / "folder").exists() == resume
    again.release()


def test_what_a_kill_left_of_the_same_work_is_begun_again(tmp_path):
    """A training that is given again after a kill in its last second goes on; what is of another work stays."""
    final = tmp_path / "model"
    made = begin(final, work="this")
    (made.path / "half.bin").write_text("half")
    made.release()
    for other in ("", "that", "this and more"):
        with pytest.raises(OutputError, match="an unfinished result is there"):
            begin(final, work=other)
    assert (made.path / "half.bin").exists()
    with appearing_whole(final, overwrite=False, work="this") as partial:
        assert not (partial.path / "half.bin").exists()
        (partial.path / "chorus.json").write_text("{}")
    assert sorted(path.name for path in final.iterdir()) == ["chorus.json"], "nothing of the work is in the result"
    (tmp_path / "other.partial").mkdir()
    (tmp_path / "other.partial" / ".chorus-work").write_bytes(b"\xff" * 4)
    with pytest.raises(OutputError, match="an unfinished result is there"):
        begin(tmp_path / "other", work="this")


def test_an_unfinished_one_that_is_refused_is_not_locked(tmp_path):
    final = tmp_path / "model"
    made = begin(final)
    (made.path / "half.bin").write_text("half")
    made.release()
    for _ in range(2):
        with pytest.raises(OutputError, match="unfinished"):
            begin(final)
    begin(final, resume=True).release()


@pytest.mark.parametrize("make", [lambda p: p.write_text("x"), os.mkfifo, lambda p: p.symlink_to(p.parent)])
def test_what_is_in_the_way_of_the_work_is_not_written_through(tmp_path, make):
    make(tmp_path / "model.partial")
    with pytest.raises(OutputError, match="in the way"):
        begin(tmp_path / "model", overwrite=True)


def test_what_is_no_file_of_the_work_is_refused_and_stays(tmp_path):
    made = begin(tmp_path / "model")
    (made.path / "sub").mkdir()
    for name in ("a", "sub/b"):
        (made.path / name).write_text(name)
    made.refuse_others(["a", "sub/b", "not/there/yet"])
    with pytest.raises(OutputError, match=r"model\.partial/sub/b: no file of this merge"):
        made.refuse_others(["a"])
    os.link(made.path / "a", tmp_path / "elsewhere")
    with pytest.raises(OutputError, match=r"model\.partial/a: not as the merge wrote it"):
        made.refuse_others(["a", "sub/b"])
    (made.path / "a").unlink()
    (made.path / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match=r"model\.partial/a: not as"):
        made.refuse_others(["a", "sub/b"])
    (made.path / "a").unlink()
    (made.path / "folder").symlink_to(tmp_path)
    with pytest.raises(OutputError, match=r"model\.partial/folder: no file"):
        made.refuse_others(["a", "sub/b"])
    made.release()


def test_one_at_a_time(tmp_path):
    first = begin(tmp_path / "model")
    for settings in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(OutputError, match="another command is writing it"):
            begin(tmp_path / "model", **settings)
    first.finish(())
    begin(tmp_path / "model", overwrite=True).finish(())


def test_a_file_system_without_locks_is_gone_without(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    made = begin(tmp_path / "model")
    made.finish(())
    assert (tmp_path / "model").is_dir()


def test_a_small_disk_is_seen_before_the_first_byte(tmp_path, monkeypatch):
    made = begin(tmp_path / "model")
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda path: type("", (), {"free": 2_000_000_000})())
    made.check_space(2_000_000_000)
    with pytest.raises(OutputError, match=r"needs 2\.1 GB, the disk has 2\.0 GB free"):
        made.check_space(2_100_000_000)


def test_what_is_there_already_needs_no_more_room(tmp_path, monkeypatch):
    made = begin(tmp_path / "model")
    (made.path / "half.bin").write_bytes(b"x" * 8192)
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda path: type("", (), {"free": 0})())
    made.check_space(8192)
    with pytest.raises(OutputError):
        made.check_space(8192 + 4096 + 1)
    made.release()


def test_work_that_fails_leaves_nothing(tmp_path):
    def interrupted():
        with appearing_whole(tmp_path / "model", overwrite=False) as partial:
            (partial.path / "folder").mkdir()
            (partial.path / "half.bin").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_work_that_succeeds_appears(tmp_path):
    with appearing_whole(tmp_path / "model", overwrite=False) as partial:
        (partial.path / "a.txt").write_text("a")
    assert (tmp_path / "model" / "a.txt").read_text() == "a"


# ---- files ----


def test_threads_write_by_offset(tmp_path):
    made = OutputFile(tmp_path / "folder" / "m.bin", b"head", 4 + 64 * 1000)
    pieces = [np.full(1000, i, np.uint8) for i in range(64)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: made.write(pieces[i], 4 + 1000 * i), reversed(range(64))))
    assert made.read(4 + 3000, 2) == b"\x03\x03"
    made.close()
    assert (tmp_path / "folder" / "m.bin").read_bytes() == b"head" + b"".join(p.tobytes() for p in pieces)


@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.int64])
def test_arrays_of_any_type_are_written_as_they_lie(tmp_path, dtype):
    values = np.arange(7, dtype=dtype)
    made = OutputFile(tmp_path / "m.bin", b"", values.nbytes)
    made.write(values, 0)
    made.close()
    assert np.array_equal(np.fromfile(tmp_path / "m.bin", dtype), values)


def test_short_writes_go_on(tmp_path, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(writer.os, "pwrite", lambda fd, data, offset: real(fd, data[:3], offset))
    made = OutputFile(tmp_path / "m.bin", b"0123456789", 10)
    made.close()
    assert (tmp_path / "m.bin").read_bytes() == b"0123456789"


def test_a_resumed_file_keeps_what_it_holds(tmp_path):
    first = OutputFile(tmp_path / "m.bin", b"head", 12)
    first.write(b"kept", 4)
    first.close()
    again = OutputFile(tmp_path / "m.bin", b"head", 12)
    again.write(b"more", 8)
    again.close()
    assert (tmp_path / "m.bin").read_bytes() == b"headkeptmore"


@pytest.mark.parametrize(
    ("number", "told", "hint"),
    [
        (errno.ENOSPC, "the disk is full", "--resume"),
        (errno.EDQUOT, "the disk is full", "--resume"),
        (errno.EFBIG, "larger than files may be here", "--max-shard-size"),
        (errno.EACCES, "no permission", "another output directory"),
        (errno.EPERM, "no permission", "another output directory"),
        (errno.EROFS, "no permission", "another output directory"),
        (errno.EIO, "Input/output error", "check the disk"),
    ],
)
def test_the_systems_refusals_say_what_to_do(tmp_path, number, told, hint):
    with pytest.raises(OutputError, match=told) as caught, explained(tmp_path / "m.bin"):
        raise OSError(number, os.strerror(number))
    assert "m.bin" in str(caught.value)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 4


def test_other_errors_pass_through_as_they_are(tmp_path):
    with pytest.raises(ValueError, match="not ours"), explained(tmp_path):
        raise ValueError("not ours")


def test_texts_are_utf_8(tmp_path):
    write_text(tmp_path / "a.txt", "ação\n")
    assert (tmp_path / "a.txt").read_bytes() == "ação\n".encode()
    with pytest.raises(OutputError, match=r"b\.txt"):
        write_text(tmp_path / "none" / "b.txt", "")
