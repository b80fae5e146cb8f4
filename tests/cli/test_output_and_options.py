"""What every command shares: sizes, notes, the flags of a merge; and the small commands about the house."""

from __future__ import annotations

import json
import os
from dataclasses import fields

import click
import pytest
from click.testing import CliRunner

from chorus.checkpoints.shards import DEFAULT_SHARD_BYTES
from chorus.cli import doctor, output
from chorus.cli.main import COMMANDS, run
from chorus.cli.options import IDLE_FLAGS, IDLE_VALUES, idle_note, merge_options, options_of
from chorus.errors import UsageError
from chorus.merge.method import METHODS
from chorus.merge.options import DEFAULT_BUDGET_BYTES, Options
from chorus.sizes import size

# ---- output ----


@pytest.mark.parametrize(
    ("n", "told"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (1_250_000, "1.25 MB"), (3e12, "3e+03 GB"), (5e9, "5 GB")],
)
def test_sizes_as_people_say_them(n, told):
    assert size(n) == told


def test_notes_go_to_stderr_unless_it_is_to_be_quiet(capsys):
    output.note("told")
    output.note("not told", quiet=True)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "told\n")


def test_json_goes_to_stdout_with_its_letters(capsys):
    output.as_json({"name": "ação", "n": 1})
    shown = capsys.readouterr().out
    assert "ação" in shown
    assert json.loads(shown) == {"name": "ação", "n": 1}


# ---- the flags of a merge ----


def flags_of(*line):
    """What a command with the shared flags is given."""
    found = {}

    @click.command()
    @merge_options
    def command(**flags):
        found.update(flags)

    result = CliRunner().invoke(command, list(line))
    if result.exit_code:
        raise UsageError(result.output)
    return found


def test_without_flags_everything_is_the_default():
    assert options_of(flags_of()) == Options()


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        (["--device", "cuda:1"], "device", "cuda:1"),
        (["--cuda"], "device", "cuda"),
        (["--cuda", "--device", "cuda"], "device", "cuda"),
        (["--no-cuda"], "device", "cpu"),
        (["-j", "3"], "jobs", 3),
        (["--num-threads", "2"], "jobs", 2),
        (["--memory-budget", "1GiB"], "memory_budget_bytes", 2**30),
        (["--out-shard-size", "5B"], "max_shard_bytes", 5_000_000_000),
        (["--max-shard-size", "200MB"], "max_shard_bytes", 200_000_000),
        (["--block-size", "65536"], "block_values", 65536),
        (["--random-seed", "7"], "seed", 7),
        (["--seed", "0"], "seed", 0),
        (["--allow-pickle"], "allow_pickle", True),
        (["--no-allow-pickle"], "allow_pickle", False),
        (["--allow-nonfinite"], "allow_nonfinite", True),
        (["--unsafe-truncate-embeddings"], "truncate_vocabulary", True),
        (["--no-truncate-vocabulary"], "truncate_vocabulary", False),
        (["--no-cache"], "reuse", False),
        (["--offline"], "offline", True),
        (["--transformers-cache", "x"], "cache_dir", "x"),
    ],
)
def test_every_flag_sets_its_option_and_no_other(line, field, value):
    found, plain = options_of(flags_of(*line)), Options()
    assert getattr(found, field) == value
    assert {f.name for f in fields(Options) if getattr(found, f.name) != getattr(plain, f.name)} <= {field}


def test_the_defaults_that_help_tells_are_those_that_hold():
    plain = Options()
    assert (plain.memory_budget_bytes, plain.max_shard_bytes) == (DEFAULT_BUDGET_BYTES, DEFAULT_SHARD_BYTES)
    assert (DEFAULT_BUDGET_BYTES, DEFAULT_SHARD_BYTES) == (512 * 2**20, 5 * 10**9)


@pytest.mark.parametrize(
    "line", [["-j", "0"], ["--memory-budget", "lots"], ["--seed", "x"], ["--max-shard-size", "-1"]]
)
def test_flags_that_make_no_sense(line):
    with pytest.raises(UsageError, match=line[0].lstrip("-")):
        flags_of(*line)


def test_two_devices_contradict_each_other():
    with pytest.raises(UsageError, match="--cuda and --device mps contradict"):
        options_of(flags_of("--cuda", "--device", "mps"))


def test_mergekits_idle_flags_are_taken_and_named_with_their_reason():
    assert len(IDLE_FLAGS) == 14
    assert idle_note(flags_of()) == ""
    for name, reason in IDLE_FLAGS.items():
        flag = f"--{name.replace('_', '-')}"
        value = ["1"] if name in IDLE_VALUES else []
        assert idle_note(flags_of(flag, *value)) == f"note: without effect here: {flag} ({reason})"
        assert options_of(flags_of(flag, *value)) == Options()
    assert idle_note(flags_of("-v", "--gpu-rich")).count("(") == 2


# ---- doctor, completion, cache, methods ----


def test_doctor_tells_the_same_as_text_and_as_json(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "faster-whisper" else "1.2.3")
    assert run(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["extras"]["evaluate"] == ["faster-whisper"]
    assert facts["extras"]["audio"] == []
    assert "all" not in facts["extras"]
    assert {"click", "torch", "safetensors", "xxhash"} <= set(facts["packages"])
    assert "faster-whisper" not in facts["packages"]  # of an extra, not of the core
    assert set(facts["caches"]) == {"spectra", "hub", "compiled kernels"}
    assert run(["doctor"]) == 0
    text = capsys.readouterr().out
    assert 'missing faster-whisper; pip install "chorus-merge[evaluate]"' in text
    for name in (*facts["packages"], *facts["devices"], *facts["extras"], *facts["caches"]):
        assert f"  {name} " in text


def test_doctor_names_what_is_missing_and_where_nothing_is_yet(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("CHORUS_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    assert run(["doctor"]) == 0
    text = capsys.readouterr().out
    assert f"{tmp_path / 'none'}  (not there yet)" in text
    assert "torch              missing" in text


def test_doctor_counts_a_gpu_as_torch_does(monkeypatch):
    import torch

    properties = type("Properties", (), {"name": "Some GPU", "total_memory": 80_000_000_000})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: properties)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    found = doctor.examine()["devices"]
    assert list(found) == ["cpu", "cuda:0", "cuda:1", "mps"]
    assert found["cuda:1"] == "Some GPU, 80 GB"


def test_names_of_requirements_are_those_that_pip_knows():
    """Of every form that a requirement is written in."""
    from importlib.metadata import version

    names = doctor._required("")
    assert len(names) >= 12
    for name in names:
        assert version(name)
    assert "jiwer" in doctor._required("audio")
    assert doctor._required("no-such-extra") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_the_shell(shell, capsys):
    assert run(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert f"_CHORUS_COMPLETE={shell}_complete" in text
    assert "chorus" in text


def test_completion_for_another_shell_is_refused(capsys):
    assert run(["completion", "tcsh"]) == 2
    assert "bash" in capsys.readouterr().err


def test_the_cache_is_shown_and_cleared(cache, capsys, monkeypatch):
    (cache / "ab").mkdir()
    (cache / "ab" / "abc.safetensors").write_bytes(b"x" * 2000)
    assert run(["cache"]) == 0
    assert capsys.readouterr().out == f"{cache}\n1 entries, 2 kB of 20 GB\n"
    monkeypatch.setenv("CHORUS_CACHE_LIMIT", "0")
    assert run(["cache"]) == 0
    assert "of turned off" in capsys.readouterr().out
    assert run(["cache", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"directory": str(cache), "entries": 1, "bytes": 2000, "limit_bytes": 0}
    assert run(["cache", "clear"]) == 0
    assert capsys.readouterr().out == "2 kB freed\n"


def test_every_method_is_explained_in_three_forms(capsys):
    assert run(["methods"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == METHODS.names()
    assert len(listed) >= 23
    for name in listed:
        for form in ([], ["--json"], ["--markdown"]):
            assert run(["methods", name, *form]) == 0
            assert name in capsys.readouterr().out
    assert run(["methods", "--json"]) == 0
    assert [m["name"] for m in json.loads(capsys.readouterr().out)] == listed


def test_methods_in_two_forms_at_once_are_refused(capsys):
    assert run(["methods", "--json", "--markdown"]) == 2
    assert "exclude each other" in capsys.readouterr().err
    assert run(["methods", "tise"]) == 2
    assert 'did you mean "ties"' in capsys.readouterr().err


# ---- main ----


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_in_its_help_what_the_list_says(name, capsys):
    assert run([name, "--help"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"Usage: chorus {name}")
    assert len(told.splitlines()) > 4


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (MemoryError(), 4, "out of memory"),
        (click.Abort(), 130, "interrupted"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ValueError("odd"), 4, "ValueError: odd"),
        (UsageError("wrong", "do this"), 2, "wrong\n  hint: do this"),
        (click.UsageError("wrong"), 2, "wrong\n  hint: chorus doctor --help"),
    ],
    ids=lambda e: type(e).__name__ if isinstance(e, BaseException) else "",
)
def test_every_kind_of_error_has_its_code_and_its_words(monkeypatch, capsys, error, code, told):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(doctor, "examine", fail)
    assert run(["doctor"]) == code
    shown = capsys.readouterr()
    assert told in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("error", [MemoryError(), ValueError("odd"), UsageError("wrong"), click.UsageError("wrong")])
def test_debug_lets_every_error_through(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(doctor, "examine", fail)
    with pytest.raises(type(error)):
        run(["doctor"], debug=True)


def test_debug_is_heard_anywhere_on_the_line_and_from_the_environment(monkeypatch):
    from chorus.cli import main

    seen = []
    monkeypatch.setattr(main, "run", lambda arguments, debug: seen.append((arguments, debug)) or 0)
    for arguments, environment in ((["--debug", "doctor"], "0"), (["doctor", "--debug"], "0"), (["doctor"], "1")):
        monkeypatch.setitem(os.environ, "CHORUS_DEBUG", environment)
        with pytest.raises(SystemExit) as left:
            main.main(arguments)
        assert left.value.code == 0
    assert seen == [(["doctor"], True)] * 3
