"""`chorus data` and `chorus train` as their users meet them: what they print, where, with which exit code."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import soundfile
import yaml

from chorus.cli.main import run
from chorus.data.audio import RATE, write_flac
from chorus.data.manifest import read_manifest, write_manifest
from sounds import BASE, corpus, tone


@pytest.fixture
def manifest(tmp_path):
    return corpus(tmp_path)[0]


# ---- manifest ----


def test_manifest_says_what_matched_and_what_was_skipped(tmp_path, capsys):
    for name in ("a/one.flac", "a/two.flac", "b/three.flac"):
        write_flac(tmp_path / name, tone(0.2))
    (tmp_path / "a" / "one.txt").write_text("one")
    assert (
        run(["data", "manifest", str(tmp_path), "--language", "pt", "--domain", "home", "--speaker-from", "folder"])
        == 0
    )
    out, err = capsys.readouterr()
    assert "matched by sidecar: 1" in out
    assert "skipped, no transcript by any rule: 2 (a/two.flac, b/three.flac)" in out
    assert out.splitlines()[-1] == str(tmp_path / "manifest.csv")
    assert f"next: chorus data check {tmp_path / 'manifest.csv'}" in err
    assert run(["data", "manifest", str(tmp_path)]) == 4
    assert "manifest.csv: is there already" in capsys.readouterr().err
    row = read_manifest(tmp_path / "manifest.csv").rows[0]
    assert (row.text, row.language, row.domain, row.speaker) == ("one", "pt", "home", "a")


def test_manifest_with_the_flags_of_the_whisper_cpp_guide(tmp_path, capsys):
    (tmp_path / "texts").mkdir()
    for i in (1, 2):
        (tmp_path / "texts" / f"f0{i}.txt").write_text(f"text {i}")
        for session in ("s1", "s2", "s3", "s4"):
            write_flac(tmp_path / "audio" / session / f"x_f0{i}.flac", tone(0.1, seed=i))
    given = ["--audio-root", tmp_path / "audio", "--texts-root", tmp_path / "texts", "--outdir", tmp_path / "lists"]
    given += ["--val-fraction", "0.25", "--language", "en", "--extensions", ".wav .flac", "--seed", "5", "--json"]
    assert run(["data", "manifest", *map(str, given)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["classes"] == {"f01": 4, "f02": 4}
    train, val = (read_manifest(path).rows for path in facts["written"])
    assert (len(train), len(val)) == (6, 2)
    assert not {r.audio.parent for r in train} & {r.audio.parent for r in val}
    assert all(r.audio.exists() for r in train)
    assert set(read_manifest(facts["written"][0]).columns) >= {"path", "text", "language"}


def test_manifest_with_nothing_to_pair_fails_and_says_why(tmp_path, capsys):
    write_flac(tmp_path / "a.flac", tone(0.1))
    assert run(["data", "manifest", str(tmp_path)]) == 4
    out, err = capsys.readouterr()
    assert "skipped, no transcript by any rule: 1 (a.flac)" in out
    assert "no recording has a transcript" in err
    assert not (tmp_path / "manifest.csv").exists()


def test_manifest_needs_one_folder(capsys):
    assert run(["data", "manifest"]) == 2
    assert run(["data", "manifest", "a", "--audio-root", "b"]) == 2
    assert "name the folder of the recordings once" in capsys.readouterr().err


# ---- check ----


def test_check_of_a_sound_manifest(manifest, capsys):
    assert run(["data", "check", str(manifest), "--model", str(BASE), "-q"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("12 rows, 0.002 h, 12 at 16 kHz\n")
    assert "hours by domain: d" in out
    assert out.endswith("\n0 errors, 9 warnings\n")
    assert run(["data", "check", str(manifest), "-q", "--strict"]) == 1


def test_check_leaves_with_one_where_a_training_would_be_spoilt(tmp_path, capsys):
    _, rows = corpus(tmp_path)
    soundfile.write(tmp_path / "silent.wav", 0 * tone(1), RATE)
    bad = write_manifest(
        [*rows, replace(rows[0], path="silent.wav"), replace(rows[0], path="no.wav")], tmp_path / "b.csv"
    )
    assert run(["data", "check", str(bad), "-q"]) == 1
    assert "2 errors" in capsys.readouterr().out
    assert run(["data", "check", str(bad), "-q", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    found = {f["kind"]: f for f in report["findings"]}
    assert found["missing audio"] == {"kind": "missing audio", "error": True, "rows": ["no.wav"]}
    assert found["silent audio"]["rows"] == ["silent.wav: digital silence"]
    assert report["hours_by"]["language"]["en"] > 0


def test_check_says_which_columns_it_took(tmp_path, capsys):
    _, rows = corpus(tmp_path, 2)
    (tmp_path / "v.tsv").write_text("path\tsentence\n" + "".join(f"{r.path}\t{r.text}\n" for r in rows))
    assert run(["data", "check", str(tmp_path / "v.tsv")]) == 0
    assert "column sentence is read as text" in capsys.readouterr().err
    (tmp_path / "lists").mkdir()
    (tmp_path / "v.tsv").rename(tmp_path / "lists" / "v.tsv")
    assert run(["data", "check", str(tmp_path / "lists" / "v.tsv"), "-q"]) == 1
    assert run(["data", "check", str(tmp_path / "lists" / "v.tsv"), "--audio-dir", str(tmp_path), "-q"]) == 0
    (tmp_path / "lists" / "v.tsv").rename(tmp_path / "v.tsv")
    capsys.readouterr()
    assert run(["data", "check", str(tmp_path / "v.tsv"), "--columns", "text"]) == 2
    assert "write OURS=THEIRS" in capsys.readouterr().err


def test_check_takes_manifests_of_tasks(tmp_path, capsys):
    for i, name in enumerate("ab"):
        write_flac(tmp_path / f"{name}.flac", tone(0.5, 200 + 50 * i))
    named = tmp_path / "named.csv"
    named.write_text("path,task,instruction,choices,answer\na.flac,custom,Which?,x|y,x\nb.flac,custom,,x|y,z\n")
    assert run(["data", "check", str(named), "-q"]) == 1
    assert 'task custom: its answer "z" is none of its choices' in capsys.readouterr().out
    words = tmp_path / "words.csv"
    words.write_text("path,keyword\na.flac,on\nb.flac,off\n")
    assert run(["data", "check", str(words)]) == 4
    told = capsys.readouterr().err
    assert "no column text" in told
    assert "--task" in told
    assert run(["data", "check", str(words), "--task", "keyword-spotting", "-q"]) == 0
    assert run(["data", "check", str(words), "--task", "kwz"]) == 2
    assert "unknown task" in capsys.readouterr().err


def test_check_without_the_extra(manifest, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    assert run(["data", "check", str(manifest), "-q"]) == 3
    assert 'pip install "chorus-merge[audio]"' in capsys.readouterr().err


def test_check_of_an_empty_manifest(tmp_path, capsys):
    (tmp_path / "m.csv").write_text("path,text\n")
    assert run(["data", "check", str(tmp_path / "m.csv")]) == 4
    assert "no rows" in capsys.readouterr().err


# ---- split, describe, synth ----


def test_split_and_describe(tmp_path, manifest, capsys):
    assert run(["data", "split", str(manifest), "-o", str(tmp_path / "s.jsonl"), "--dev", "0.3", "--test", "0.3"]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == [str(tmp_path / "s.jsonl")]
    assert lines[1] == ["split", "rows", "share", "speaker"]
    assert [line[0] for line in lines[2:]] == ["train", "dev", "test"]
    assert [line[-1] for line in lines[2:]] == ["1", "1", "1"]  # three speakers, one to each side
    assert sum(int(line[1]) for line in lines[2:]) == 12
    assert run(["data", "split", str(manifest), "-o", str(tmp_path / "s.jsonl")]) == 4
    assert run(["data", "split", str(manifest), "-o", str(tmp_path / "s.jsonl"), "--seed", "1", "--overwrite"]) == 0
    capsys.readouterr()
    assert {r.split for r in read_manifest(tmp_path / "s.jsonl").rows} == {"train", "dev", "test"}
    assert run(["data", "describe", str(tmp_path / "s.jsonl"), "--plot", str(tmp_path / "d.svg")]) == 0
    out = capsys.readouterr().out
    assert "12 rows, 0.002 h; 6 distinct texts" in out
    assert "<svg" in (tmp_path / "d.svg").read_text()
    assert run(["data", "describe", str(manifest), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["by"]["domain"]["d0"]["rows"] == 6
    assert facts["duration_s"]["max"] == pytest.approx(0.75)


def test_synth(tmp_path, capsys):
    pytest.importorskip("espeakng_loader", reason='needs pip install "chorus-merge[synth]"')
    recipe = {
        "rows": {"train": 1, "dev": 1, "test": 1},
        "domains": {"d": {"language": "en", "texts": ["hello", "bye"]}},
    }
    (tmp_path / "r.yml").write_text(yaml.safe_dump(recipe))
    assert run(["data", "synth", str(tmp_path / "r.yml"), "-o", str(tmp_path / "out")]) == 0
    assert len(read_manifest(tmp_path / "out" / "manifest.csv").rows) == 3
    assert run(["data", "synth", str(tmp_path / "r.yml"), "-o", str(tmp_path / "out")]) == 4
    assert "exists and is not empty" in capsys.readouterr().err
    (tmp_path / "r.yml").write_text(yaml.safe_dump({"domains": {}}))
    assert run(["data", "synth", str(tmp_path / "r.yml"), "-o", str(tmp_path / "o2")]) == 2
    assert not (tmp_path / "o2").exists()


@pytest.mark.parametrize("command", ["manifest", "check", "split", "describe", "synth"])
def test_every_subcommand_has_help(command, capsys):
    assert run(["data", command, "--help"]) == 0
    assert "Usage: chorus data" in capsys.readouterr().out


# ---- train ----


def test_train_prints_what_holds(tmp_path, capsys):
    (tmp_path / "base.yaml").write_text("model: {base: openai/whisper-tiny}\ntrain: {epochs: 9}\n")
    (tmp_path / "asr.yaml").write_text("data: {train: m.csv}\n")
    given = ["train", "--task", "asr", "--config", str(tmp_path / "asr.yaml"), "train.batch_size=2", "--device", "cpu"]
    assert run([*given, "--merge", "--print-config"]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert (found["model"]["base"], found["train"]["epochs"], found["train"]["batch_size"]) == (
        "openai/whisper-tiny",
        9,
        2,
    )
    assert (found["task"], found["device"], found["adapter"]["merge"]) == ("asr", "cpu", True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no configuration"),
        (["none.yaml"], "none.yaml: no such file"),
        (["model.base=a", "data.train=b", "train.epoch=3"], 'unknown key "train.epoch"; did you mean "train.epochs"'),
        (["model.base=a"], "data: missing"),
    ],
)
def test_train_refuses_before_anything_is_loaded(arguments, message, capsys):
    assert run(["train", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_train_tells_where_the_specialist_is_and_what_to_do_with_it(tmp_path, manifest, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [
        f"model.base={BASE}",
        f"data.train={manifest}",
        "train.epochs=1",
        "train.window_s=3",
        "dev.max_new_tokens=6",
    ]
    assert run(["train", *given, "adapter.rank=2", "--merge"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == ["artifacts/asr", "artifacts/asr-merged"]
    assert "adapter on 22 modules: encoder attention 8, encoder mlp 4" in err
    assert "dev wer " in err
    assert f'next: name "{BASE}+artifacts/asr" under models:' in err
    assert run(["train", *given, "adapter.rank=2", "--merge", "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["reused"]
    assert run(["train", *given, "adapter.rank=3", "--merge", "-q"]) == 4
    assert "artifacts/asr: holds something else" in capsys.readouterr().err


def test_train_without_the_extra(manifest, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    assert run(["train", f"model.base={BASE}", f"data.train={manifest}"]) == 3
    assert 'pip install "chorus-merge[train]"' in capsys.readouterr().err


def test_train_without_a_language(tmp_path, capsys):
    _, rows = corpus(tmp_path)
    path = write_manifest([replace(r, language="") for r in rows], tmp_path / "n.csv")
    assert run(["train", f"model.base={BASE}", f"data.train={path}", f"output={tmp_path}/o", f"logs={tmp_path}/l"]) == 4
    err = capsys.readouterr().err
    assert "8 rows without a language: audio/000.flac, " in err
    assert "data.language=CODE" in err
    assert not (tmp_path / "o").exists()


def test_a_folder_in_ljspeech_s_form_is_told_of_its_table(tmp_path, capsys):
    corpus(tmp_path, 1)
    (tmp_path / "metadata.csv").write_text("000|Ten|ten\n")
    assert run(["data", "manifest", str(tmp_path), "-o", str(tmp_path / "m.csv")]) == 4
    assert f"is it --table {tmp_path / 'metadata.csv'}?" in capsys.readouterr().err
