"""Every rule that pairs recordings with transcripts, with what each skips."""

from __future__ import annotations

from collections import Counter

import pytest

from chorus.data.pairing import pair, read_table
from chorus.errors import DataError, UsageError


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_sidecars(tmp_path):
    touch(tmp_path, "a/one.wav", "a/two.FLAC", "b/three.mp3", "b/four.ogg", "notes.pdf")
    (tmp_path / "a" / "one.txt").write_text("one\n two ")
    (tmp_path / "a" / "two.lab").write_text("zwei")
    (tmp_path / "b" / "four.txt").write_text("  \n")
    found = pair(tmp_path, language="de", speaker_from="folder")
    assert [(r.path, r.text, r.language, r.speaker) for r in found.rows] == [
        ("a/one.wav", "one two", "de", "a"),
        ("a/two.FLAC", "zwei", "de", "a"),
    ]
    assert found.matched == {"sidecar": 2}
    assert found.skipped == {"the transcript is empty": ["b/four.ogg"], "no transcript by any rule": ["b/three.mp3"]}


def test_one_table(tmp_path):
    touch(tmp_path, "x/a.wav", "b.wav", "c.wav")
    for name, text in (("t.txt", "a olá mundo\nb.wav bom dia\n"), ("t.psv", "a|olá mundo|OLÁ\nb|bom dia\n")):
        (tmp_path / name).write_text(text)
        found = pair(tmp_path, table=tmp_path / name)
        assert [(r.path, r.text) for r in found.rows] == [("b.wav", "bom dia"), ("x/a.wav", "olá mundo")]
        assert found.skipped == {"not in the table": ["c.wav"]}
    (tmp_path / "t.csv").write_text("file,sentence,speaker_id\nb.wav,hi,ana\n")
    assert pair(tmp_path, table=tmp_path / "t.csv").rows[0].speaker == "ana"
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match="no line of the form"):
        read_table(tmp_path / "empty.txt")


def test_librispeech(tmp_path):
    touch(tmp_path, "84/121/84-121-0000.flac", "84/121/84-121-0001.flac")
    (tmp_path / "84" / "121" / "84-121.trans.txt").write_text("84-121-0000 GO DO YOU HEAR\n")
    found = pair(tmp_path)
    assert [(r.text, r.speaker) for r in found.rows] == [("GO DO YOU HEAR", "84")]
    assert found.matched == {"librispeech": 1}
    assert found.skipped == {"not in the folder's .trans.txt": ["84/121/84-121-0001.flac"]}


def test_kaldi_with_segments_and_never_a_command(tmp_path):
    (tmp_path / "wav.scp").write_text("rec1 audio/r1.wav\nrec2 sox r2.wav -t wav - |\n")
    (tmp_path / "segments").write_text("u1 rec1 0.5 1.5\nu2 rec2 0 1\nu3 rec3 0 1\nu4 rec1 2 3\n")
    (tmp_path / "text").write_text("u1 hello there\nu2 no\nu3 no\n")
    (tmp_path / "utt2spk").write_text("u1 ana\n")
    found = pair(tmp_path)
    assert [(r.path, r.text, r.speaker, r.start, r.end) for r in found.rows] == [
        ("audio/r1.wav", "hello there", "ana", 0.5, 1.5)
    ]
    assert {reason: len(names) for reason, names in found.skipped.items()} == {
        "wav.scp holds a command, which is never run (run it once, and name the file that it writes)": 1,
        "no entry in wav.scp": 1,
        "no transcript in text": 1,
    }


def test_tokens_in_names_in_every_documented_form(tmp_path):
    audio, texts = tmp_path / "audio", tmp_path / "texts"
    names = [
        "s1/rec_f01.wav",
        "s1/F02-take2.wav",
        "s2/xf03.WAV",
        "s2/spk F04something.mp3",
        "s2/f01_f02.wav",
        "s2/none.wav",
    ]
    touch(audio, *names)
    texts.mkdir()
    for i in range(1, 5):
        (texts / f"f0{i}.txt").write_text(f"text {i}")
    found = pair(audio, rule="token", texts_dir=texts)
    assert found.classes == Counter({"f01": 1, "f02": 1, "f03": 1, "f04": 1})
    assert found.skipped == {
        "several tokens in the name (f01, f02)": ["s2/f01_f02.wav"],
        "no token in the name": ["s2/none.wav"],
    }
    (texts / "f02.txt").write_text(" ")
    with pytest.raises(DataError, match=r"empty text: f02\.txt"):
        pair(audio, rule="token", texts_dir=texts)


def test_transcripts_that_cannot_be_read(tmp_path):
    touch(tmp_path, "1/2/1-2-0.flac")
    (tmp_path / "1" / "2" / "1-2.trans.txt").write_bytes(b"1-2-0 \xff\xfe")
    with pytest.raises(DataError, match=r"1-2\.trans\.txt: line 1 is not UTF-8 text"):
        pair(tmp_path)
    kaldi = tmp_path / "kaldi"
    kaldi.mkdir()
    (kaldi / "wav.scp").write_text("r a.wav\n")
    (kaldi / "segments").write_text("u r start end\n")
    (kaldi / "text").write_text("u hello\n")
    assert pair(kaldi).skipped == {"times in segments are no numbers": ["u"]}


def test_what_cannot_be_paired_at_all(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        pair(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no audio files"):
        pair(tmp_path)
    with pytest.raises(DataError, match=r"no wav\.scp"):
        pair(tmp_path, rule="kaldi")
    for rule in ("table", "token"):
        with pytest.raises(UsageError, match=f"the rule {rule} needs"):
            pair(tmp_path, rule=rule)
