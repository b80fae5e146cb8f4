"""Manifests in four forms, other tools' names for columns, and every kind of broken row."""

from __future__ import annotations

import json

import pytest

from chorus.data.manifest import Row, groups, read_manifest, select, write_manifest
from chorus.data.utterance import recordings_of
from chorus.errors import DataError, UsageError
from sounds import corpus


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_what_is_written_is_read_again(tmp_path, suffix):
    rows = [
        Row("a/ä b.wav", 'say "hi", then go', "pt", "ana", "home", "train", 1.25, 0.5, 1.75, {"emotion": "glad"},
            root=tmp_path),
        Row("c.flac", "tab\tand\nline", language="ar", root=tmp_path),
    ]  # fmt: skip
    found = read_manifest(write_manifest(rows, tmp_path / f"m{suffix}")).rows
    assert [r.audio for r in found] == [r.audio for r in rows]
    assert (found[0].text, found[0].start, found[0].end, found[0].duration) == ('say "hi", then go', 0.5, 1.75, 1.25)
    assert found[0].extra == {"emotion": "glad"}
    assert found[0].length_s == 1.25
    assert (found[1].language, found[1].start, found[1].extra) == ("ar", None, {})
    assert found[1].text == ("tab\tand\nline" if suffix != ".tsv" else found[1].text)


def test_paths_are_relative_to_the_manifest(tmp_path):
    _, rows = corpus(tmp_path / "speech", 2)
    path = write_manifest(rows, tmp_path / "lists" / "m.csv")
    assert "../speech/audio/000.flac" in path.read_text()
    assert all(r.audio.exists() for r in read_manifest(path))


def test_the_other_recording_of_a_pair_is_written_where_it_is(tmp_path):
    home = tmp_path / "in"
    rows = [Row("a.wav", "yes", extra={"audio_2": "b.wav"}, root=home), Row("c.wav", "no", root=home)]
    for suffix in ("csv", "tsv", "jsonl"):
        out = write_manifest(rows, tmp_path / f"out.{suffix}")
        first, second = read_manifest(out).rows
        assert [one.audio.resolve() for one in recordings_of(first)] == [home / "a.wav", home / "b.wav"]
        assert recordings_of(second) == [second]


def test_other_tools_names_are_known_and_told(tmp_path):
    nemo = tmp_path / "nemo.json"
    nemo.write_text(
        json.dumps({"audio_filepath": "a.wav", "text": "x", "offset": 2.0, "duration": 1.5, "lang": "de"}) + "\n"
    )
    found = read_manifest(nemo)
    assert (found.rows[0].start, found.rows[0].end, found.rows[0].language) == (2.0, 3.5, "de")
    assert found.renamed == {"path": "audio_filepath", "language": "lang", "start": "offset"}
    voice = tmp_path / "validated.tsv"
    voice.write_text("client_id\tpath\tsentence\tlocale\nabc\ta.mp3\tOlá\tpt\n")
    row = read_manifest(voice).rows[0]
    assert (row.speaker, row.text, row.language) == ("abc", "Olá", "pt")


def test_common_voice_as_it_is_unpacked(tmp_path):
    """Its tables stand beside the folder of the clips, and name the clips alone."""
    (tmp_path / "pt").mkdir()
    (tmp_path / "pt" / "train.tsv").write_text("client_id\tpath\tsentence\tlocale\nabc\tcv_1.mp3\tOlá\tpt\n")
    row = read_manifest(tmp_path / "pt" / "train.tsv", audio_dir=tmp_path / "pt" / "clips").rows[0]
    assert row.audio == tmp_path / "pt" / "clips" / "cv_1.mp3"
    again = read_manifest(write_manifest([row], tmp_path / "lists" / "m.csv")).rows[0]
    assert again.audio.resolve() == row.audio.resolve()


def test_columns_can_be_named(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("wave,said,who\na.wav,hello,ana\n")
    row = read_manifest(path, columns={"path": "wave", "text": "said", "speaker": "who"}).rows[0]
    assert (row.path, row.text, row.speaker) == ("a.wav", "hello", "ana")
    with pytest.raises(DataError, match='no column "sad"; did you mean "said"'):
        read_manifest(path, columns={"text": "sad"})
    with pytest.raises(UsageError, match='"txt" is no column of a manifest; did you mean "text"'):
        read_manifest(path, columns={"txt": "said"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,words\na.wav,x\n", "no column text; it has path, words"),
        ("path,text,duration\na.wav,x,long\n", "line 2: duration is 'long', not a number"),
        ("path,text,duration\na.wav,x,nan\n", "line 2: duration is nan"),
        ("path,text,start,end\na.wav,x,2,1\n", "line 2: end 1 is not after start 2"),
        ("path,text\n,x\n", "line 2: no path"),
        ("", "no column path and no column text"),
    ],
)
def test_broken_manifests_are_named(tmp_path, text, message):
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read_manifest(path)
    assert message in error.value.message


def test_many_broken_rows_are_one_message(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("path,text,duration\n" + "a.wav,x,?\n" * 20)
    with pytest.raises(DataError, match="and 15 more"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.txt", "x", "not a manifest"),
        ("m.jsonl", "{", "line 1: not readable as JSON"),
        ("m.jsonl", "[1]", "is not an object"),
        ("m.parquet", "not parquet", "cannot be read"),
        ("m.csv", b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_files_that_are_no_manifests(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        read_manifest(path)


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        read_manifest(tmp_path / "none.csv")


def test_rows_are_chosen_and_grouped(tmp_path):
    _, rows = corpus(tmp_path, 9)
    assert len(select(rows, {"speaker": ["s0", "s1"], "split": "train"})) == 4
    assert list(groups(rows, "speaker")) == ["s0", "s1", "s2"]
    assert select([Row(extra={"year": 7})], {"year": 7})


def test_columns_of_tasks_can_be_named_too(tmp_path):
    (tmp_path / "m.csv").write_text("path,other,said\na.wav,b.wav,on\nc.wav,,off\n")
    names = {"audio_2": "other", "keyword": "said"}
    first, second = read_manifest(tmp_path / "m.csv", columns=names, needs=("path",)).rows
    assert (first.get("audio_2"), first.get("keyword")) == ("b.wav", "on")
    assert (second.get("audio_2"), second.get("keyword")) == ("", "off")
    with pytest.raises(UsageError, match=r'"keywrd" is no column of a manifest; did you mean "keyword"'):
        read_manifest(tmp_path / "m.csv", columns={"keywrd": "said"}, needs=("path",))
