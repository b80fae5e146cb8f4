"""Quotes, commas, line breaks, types, encodings: what a manifest says is read as it says it, or refused by its line."""

from __future__ import annotations

import csv
import io
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus.data.manifest import Row, read_manifest, write_manifest
from chorus.data.pairing import pair, read_table
from chorus.errors import DataError
from sounds import tone

VOICE = "client_id\tpath\tsentence\tlocale\n"


def rows_of(path, text, **more):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_manifest(path, **more).rows


def refusal(path, text):
    with pytest.raises(DataError) as error:
        rows_of(path, text)
    return error.value.message


# ---- quotes ----


@pytest.mark.reported("quotes-that-open")
def test_a_quote_that_opens_a_sentence_swallows_no_row(tmp_path):
    said = ["ten of clubs", '"Open the door', "close it", 'say "hi" to me', "five", '"Stop!"', 'the end"']
    lines = "".join(f"a\tc{i}.flac\t{text}\ten\n" for i, text in enumerate(said))
    rows = rows_of(tmp_path / "train.tsv", VOICE + lines)
    assert [row.text for row in rows] == said
    assert [row.line for row in rows] == [2, 3, 4, 5, 6, 7, 8]


@pytest.mark.reported("quotes-that-open")
def test_a_big_file_behind_a_quote_is_read(tmp_path):
    lines = [f"c{i}.flac\tsentence number {i}" for i in range(9000)]
    rows = rows_of(tmp_path / "big.tsv", 'path\ttext\nc.flac\t"Open the door\n' + "\n".join(lines))
    assert len(rows) == 9001


@pytest.mark.reported("quotes-that-open")
@pytest.mark.parametrize(
    ("body", "told"),
    [
        ('c2.flac,"Open the door\nc3.flac,close it\n', "goes on into line 3, which looks like a row"),
        ('c2.flac,"Open the door\nc3.flac,close "\n', "line 2: a quote opens a field that goes on into line 3"),
        ('c2.flac,"Open the door\n', "line 2: a quote opens a field, and nothing closes it"),
        ('c1.flac,one\nc2.flac,"Open" the door\n', "line 3: behind a closing quote stands more"),
        ("c1.flac,one\rc2.flac,two\n", "line 2: a carriage return"),
        ('c1.flac,"' + "a\n" * 200, "line 2: a quote opens a field that goes on past line 102"),
    ],
)  # fmt: skip
def test_a_stray_quote_in_a_csv_is_refused_by_its_line(tmp_path, body, told):
    assert told in refusal(tmp_path / "m.csv", "path,text\n" + body)


@pytest.mark.reported("quotes-that-open")
def test_a_tsv_that_quotes_is_told_from_one_that_does_not(tmp_path):
    path = tmp_path / "m.tsv"
    pandas = 'path\ttext\na.wav\t"say ""hi"" to me"\nb.wav\tplain\nc.wav\t"""Stop!"""\n'
    assert [row.text for row in rows_of(path, pandas)] == ['say "hi" to me', "plain", '"Stop!"']
    quoted = '"path"\t"text"\n"a.wav"\t"two\twords\nof ""two"" lines"\n"b.wav"\t"x"\n'
    assert [row.text for row in rows_of(path, quoted)] == ['two\twords\nof "two" lines', "x"]
    both = pandas + 'd.wav\tthe end"\n'
    assert "line 2 doubles its quotes as CSV does, and in line 5 they are letters" in refusal(path, both)


# ---- commas and other marks ----


@pytest.mark.reported("unquoted-commas")
def test_a_comma_that_is_not_quoted_is_refused_by_its_line(tmp_path):
    text = "path,text,language\nc1.flac,ten of clubs,en\nc5.flac,And as we hurried up town, Joe Goose explained.,en\n"
    assert "m.csv: line 3: 4 fields, the header has 3" in refusal(tmp_path / "m.csv", text)
    assert "m.csv: line 2: 2 fields, the header has 3" in refusal(tmp_path / "m.csv", "path,text,language\na.wav,x\n")
    rows = rows_of(tmp_path / "m.csv", 'path,text,language\nc5.flac,"And as we hurried up town, Joe.",en\n')
    assert (rows[0].text, rows[0].language) == ("And as we hurried up town, Joe.", "en")


@pytest.mark.reported("unquoted-commas")
@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("m.tsv", "path\ttext\na.wav\ttwo\twords\n", "line 2: 3 fields, the header has 2 (a tab in a text?)"),
        ("m.csv", "path;text\na.wav;x\n", "no column path"),
        ("m.csv", "a.wav,hello\nb.wav,there\n", "no column path and no column text; it has a.wav, hello"),
        ("m.csv", "path,text,text\na.wav,x,y\n", "the column text stands twice"),
        ("m.csv", "path," + ",".join(f"c{i}" for i in range(2000)) + "\n", "2,001 columns; the limit is 1,000"),
        ("m.csv", "path,text,duration\na.wav,x,1_0\n", "line 2: duration is '1_0', not a number"),
        ("m.csv", "path,text,duration\na.wav,x,1e999\n", "line 2: duration is 1e999"),
        ("m.csv", "path,text,end\na.wav,x,-1\n", "line 2: end is -1"),
        ("m.csv", "path,text\na\0.wav,x\n", "line 2 holds a NUL character"),
        ("m.csv", b"path,text\na.wav,caf\xe9\n", "line 2 is not UTF-8 text (byte 0xe9; perhaps Latin-1"),
        ("m.csv", "path,text\na.wav,x\n".encode("utf-16"), "line 1 is not UTF-8 text (but UTF-16"),
        ("m.csv", "path,text\na.wav,x\n".encode("utf-16-le"), "line 1 holds a NUL character"),
        ("m.csv", "path,text\na.wav," + "x" * 2_000_000, "line 2 has more than 1,000,000 bytes"),
    ],
)  # fmt: skip
def test_what_is_no_table_of_this_form_is_refused(tmp_path, name, text, told):
    assert told in refusal(tmp_path / name, text)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffpath,text\r\na.wav,one\r\n\r\nb.wav,two\r\n",  # Excel's
        ",path,text\n0,a.wav,one\n1,b.wav,two\n",  # pandas' index
        " path , text \na.wav,one\nb.wav,two\n\n",
        '"path","text"\n"a.wav","one"\n"b.wav","two"',
    ],
)
def test_what_programs_write_otherwise_is_read(tmp_path, text):
    rows = rows_of(tmp_path / "m.csv", text)
    assert [(row.path, row.text) for row in rows] == [("a.wav", "one"), ("b.wav", "two")]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x1e", "\x85"])
def test_lines_break_at_line_feeds_and_nowhere_else(tmp_path, mark):
    said = f"one{mark}two"
    forms = {
        "m.csv": f"path,text\na.wav,{said}\n", "m.tsv": f"path\ttext\na.wav\t{said}\n",
        "m.jsonl": json.dumps({"path": "a.wav", "text": said}, ensure_ascii=False).replace("\\u000b", "\x0b") + "\n",
    }  # fmt: skip
    for name, text in forms.items():
        if mark >= " " or name != "m.jsonl":  # JSON escapes controls
            assert [row.text for row in rows_of(tmp_path / name, text)] == [said]
    (tmp_path / "x.wav").touch()
    for name, text in (("table.txt", f"x {said}\n"), ("x.txt", said)):
        (tmp_path / name).write_text(text)
        found = pair(tmp_path, table=tmp_path / name if name == "table.txt" else None)
        assert [row.text for row in found.rows] == [" ".join(said.split())]


# ---- JSON lines and types ----


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('{"path": "a.wav", "text": "x"}\n\n{"path": "b.wav", "text": 7}\n', "line 3: text is 7, not a text"),
        ('{"path": "a.wav", "text": true}\n', "line 1: text is True, not a text"),
        ('{"path": "a.wav", "text": ["x"]}\n', "line 1: text is ['x'], not a text"),
        ('{"path": 3, "text": "x"}\n', "line 1: path is 3, not a text"),
        ('{"path": "a.wav", "text": "x", "language": false}\n', "line 1: language is False, not a text"),
        ('{"path": null, "text": "x"}\n', "line 1: no path"),
        ('{"path": "a.wav", "text": "x"}\n{"path": "b.wav", "sentence": "y"}\n', "line 2: no text, but sentence"),
        ('{"path": "a\\u0000.wav", "text": "x"}\n', "line 1: path holds a NUL"),
        ('{"path": "a.wav", "text": "x", "duration": true}\n', "line 1: duration is True, not a number"),
        ('{"path": "a.wav", "text": "x", "text": "y"}\n', "line 1: not readable as JSON (the key text stands twice)"),
        ('{"path": "a.wav", "text": "x"}\n{"path": \n', "line 2: not readable as JSON"),
        ('{"path": "a.wav", "text": "x"} {"path": "b.wav"}\n', "line 1: not readable as JSON"),
        ('[{"path": "a.wav", "text": "x"}, {"path": "b.wav", "text": 1}]', "entry 2: text is 1"),
        ("[" * 100_000, "nested more than 100 deep"),
    ],
)  # fmt: skip
def test_texts_are_texts(tmp_path, lines, told):
    assert told in refusal(tmp_path / "m.jsonl", lines)


def test_speakers_may_be_numbers_where_a_file_has_types(tmp_path):
    import pyarrow
    import pyarrow.parquet

    lines = '{"path": "a.wav", "text": "x", "speaker": 84, "split": "train"}\n{"path": "b.wav", "text": null}\n'
    rows = rows_of(tmp_path / "m.jsonl", lines)
    assert [(row.speaker, row.text) for row in rows] == [("84", "x"), ("", "")]
    table = {"path": ["a.wav", "b.wav"], "text": ["x", "y"], "speaker_id": [84.0, None], "year": [1999, 2000]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "m.parquet")
    rows = read_manifest(tmp_path / "m.parquet").rows
    assert [(row.speaker, row.extra) for row in rows] == [("84", {"year": 1999}), ("", {"year": 2000})]
    pyarrow.parquet.write_table(pyarrow.table({**table, "text": [1, 2]}), tmp_path / "m.parquet")
    with pytest.raises(DataError, match="row 1: text is 1, not a text"):
        read_manifest(tmp_path / "m.parquet")


def test_manifests_that_are_no_files(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    os.mkfifo(tmp_path / "pipe.parquet")
    (tmp_path / "self.jsonl").symlink_to("self.jsonl")
    (tmp_path / "null.tsv").symlink_to("/dev/zero")
    told = {
        "folder.csv": "a directory", "pipe.csv": "a pipe", "pipe.parquet": "a pipe", "self.jsonl": "leads to itself",
        "null.tsv": "a device", "n" * 300 + ".csv": "cannot be read", "n\0.csv": "no name of a file",
    }  # fmt: skip
    for name, reason in told.items():
        with pytest.raises(DataError, match=reason):
            read_manifest(tmp_path / name)


# ---- what is written is read ----

LETTERS = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)
TEXT = st.one_of(LETTERS, st.text("ab\"\t\n\r,;|\u2028 '", max_size=10)).map(str.strip)


@given(st.lists(TEXT, min_size=1, max_size=5), st.sampled_from(["csv", "tsv", "jsonl", "parquet"]))
def test_what_is_written_here_is_read_again(tmp_path_factory, texts, suffix):
    path = tmp_path_factory.mktemp("m") / f"m.{suffix}"
    rows = [Row(f"{i}.wav", text, speaker=f"s{i}", root=path.parent) for i, text in enumerate(texts)]
    assert [(row.path, row.text) for row in read_manifest(write_manifest(rows, path)).rows] == [
        (row.path, row.text) for row in rows
    ]


@given(
    st.lists(TEXT, min_size=1, max_size=5), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["csv", "tsv"]), st.sampled_from(["\n", "\r\n"]),
)  # fmt: skip
def test_what_csv_and_pandas_write_is_read_or_refused(tmp_path_factory, texts, quoting, suffix, end):
    """Where a text has line breaks of its own and not every field stands in quotes, it may look like a row."""
    path = tmp_path_factory.mktemp("m") / f"m.{suffix}"
    out = io.StringIO()
    writer = csv.writer(out, delimiter="," if suffix == "csv" else "\t", quoting=quoting, lineterminator=end)
    writer.writerows([["path", "text", "speaker"], *([f"{i}.wav", text, "ana"] for i, text in enumerate(texts))])
    breaks = any(mark in text for text in texts for mark in "\n\r\t")
    try:
        rows = rows_of(path, out.getvalue())
    except DataError:
        assert breaks
        assert quoting == csv.QUOTE_MINIMAL
        return
    assert [row.text for row in rows] == texts
    assert {row.speaker for row in rows} == {"ana"}


@given(st.lists(st.text('ab" ,', max_size=8).map(str.strip), min_size=1, max_size=6))
def test_a_row_of_a_tsv_without_quoting_never_swallows_another(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("m") / "m.tsv"
    body = "path\ttext\n" + "".join(f"{i}.wav\t{text}\n" for i, text in enumerate(texts))
    if any('""' in text[1:-1] for text in texts):  # as a program writes them
        return
    rows = rows_of(path, body)
    assert [(row.path, row.text) for row in rows] == [(f"{i}.wav", text) for i, text in enumerate(texts)]


@given(st.lists(st.text('ab" ,\n', max_size=8), min_size=2, max_size=6))
def test_a_csv_without_quoting_never_loses_a_row(tmp_path_factory, texts):
    """Lines that were only joined by commas: as many rows as there are, or a refusal."""
    path = tmp_path_factory.mktemp("m") / "m.csv"
    texts = [text.replace("\n", " ") for text in texts]
    try:
        rows = rows_of(path, "path,text\n" + "".join(f"{i}.wav,{text}\n" for i, text in enumerate(texts)))
    except DataError:
        return
    assert [row.path for row in rows] == [f"{i}.wav" for i in range(len(texts))]


# ---- Kaldi and other lists ----


def kaldi(folder, **files):
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("wav", "wav.scp")).write_text(text)
    return folder


@pytest.mark.reported("kaldi-end")
def test_a_segment_to_the_end_ends_where_its_recording_does(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "r.wav", tone(2.5), 16_000)
    segments = "u1 rec 0.0 1.5\nu2 rec 1.5 -1\nu3 rec 1.0 0.5\nu4 rec -2 1\nu5 rec 0 1 A\n"
    folder = kaldi(
        tmp_path / "k",
        wav=f"rec {tmp_path}/r.wav\n",
        segments=segments,
        text="".join(f"u{i} said\n" for i in range(1, 7)),
    )
    found = pair(folder)
    assert [(row.start, row.end) for row in found.rows] == [(0.0, 1.5), (1.5, 2.5)]
    assert found.skipped == {
        "a segment ends before it begins": ["u3", "u4"],
        "segments names a channel (write each channel to a file of its own)": ["u5"],
        "a transcript without a recording": ["u6"],
    }
    again = read_manifest(write_manifest(found.rows, tmp_path / "k.csv")).rows
    assert [(row.start, row.end, row.text) for row in again] == [(0.0, 1.5, "said"), (1.5, 2.5, "said")]


@pytest.mark.reported("kaldi-end")
def test_a_recording_that_cannot_be_opened_leaves_the_end_open(tmp_path):
    folder = kaldi(tmp_path / "k", wav="rec none.wav\n", segments="u1 rec 1.5 -1\n", text="u1 said\n")
    (row,) = read_manifest(write_manifest(pair(folder).rows, tmp_path / "k.csv")).rows
    assert (row.start, row.end) == (1.5, None)


@pytest.mark.parametrize("entry", ["sox a.wav -t wav - |", "sox a.wav -t wav - |  ", "| cat a.wav"])
def test_commands_of_kaldi_are_never_run(tmp_path, entry):
    found = pair(kaldi(tmp_path / "k", wav=f"u1 {entry}\n", text="u1 said\n"))
    assert found.rows == []
    assert [reason.partition(" (")[0] for reason in found.skipped] == ["wav.scp holds a command, which is never run"]


def test_names_stand_once_in_lists(tmp_path):
    with pytest.raises(DataError, match="line 2: u1 stands twice"):
        pair(kaldi(tmp_path / "k", wav="u1 a.wav\n", text="u1 one\nu1 two\n"))
    for name, text in (("t.txt", "a one\na two\n"), ("t.csv", "path,text\na,one\na,two\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match="a stands twice"):
            read_table(tmp_path / name)


def test_ljspeech_s_table_is_called_csv_and_is_none(tmp_path):
    (tmp_path / "metadata.csv").write_text('LJ1|Printing, in "1456"|Printing, in fourteen\nLJ2|"Open|Open\n')
    assert read_table(tmp_path / "metadata.csv") == {"LJ1": {"text": 'Printing, in "1456"'}, "LJ2": {"text": '"Open'}}
    (tmp_path / "metadata.csv").write_text("LJ1|a|b\nLJ2\n")
    with pytest.raises(DataError, match="line 2 has 1 fields"):
        read_table(tmp_path / "metadata.csv")
