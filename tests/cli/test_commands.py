"""The command line as its users meet it: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from chorus.cli.main import COMMANDS, SECTIONS, run
from chorus.merge.method import METHODS
from models import copy_model, load_all, write_recipe

CHORUS = Path(sysconfig.get_path("scripts")) / "chorus"


@pytest.fixture
def recipe(qwen, tmp_path):
    made = qwen.recipe("ties", each=[{"weight": w, "density": 0.5} for w in (0.5, 0.3, 0.2)])
    return write_recipe(tmp_path / "recipe.yml", made)


def test_help_lists_every_command(capsys):
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert len(COMMANDS) == 23
    for name in COMMANDS:
        assert text.count(f"\n  {name} ") == 1
        assert run([name, "--help"]) == 0
    places = [text.index(f"\n{title}:") for title in SECTIONS]
    assert places == sorted(places)
    assert text.index("\n  train ") < text.index("\nMerging:") < text.index("\n  merge ")


def test_version(capsys):
    import chorus

    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"chorus, version {chorus.__version__}"


def test_merge_prints_the_directory_and_notes_on_stderr(recipe, out, capsys):
    assert run(["merge", str(recipe), "-o", str(out)]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == str(out)
    assert "tensors" in shown.err
    assert "licences differ" in shown.err
    assert (out / "model.safetensors").exists()


def test_plan_and_merge_name_what_is_not_carried(qwen, tmp_path, out, capsys):
    place = copy_model(qwen.base, tmp_path / "m")
    for name in ("optimizer.pt", "pytorch_model.bin", "LICENSE"):
        (place / name).write_text("x")
    models = [{"model": str(place), "parameters": {"weight": 1.0}}]
    path = str(write_recipe(tmp_path / "r.yml", {"merge_method": "linear", "models": models}))
    line = "not carried: pytorch_model.bin (weights); optimizer.pt (of a training)"
    assert run(["plan", path]) == 0
    assert line in capsys.readouterr().out
    assert run(["plan", path, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["side_files"] == ["LICENSE"]
    assert facts["not_carried"] == {"of a training": ["optimizer.pt"], "weights": ["pytorch_model.bin"]}
    assert run(["merge", path, "-o", str(out)]) == 0
    assert line in capsys.readouterr().err


def test_merge_takes_mergekits_line_and_flags(recipe, out, capsys):
    flags = ["--copy-tokenizer", "--lazy-unpickle", "--low-cpu-memory", "--out-shard-size", "1B", "--random-seed", "3",
             "--num-threads", "1", "--no-write-model-card", "--allow-crimes", "--lora-merge-cache", "x", "--no-cuda",
             "--trust-remote-code", "--clone-tensors", "--write-threads", "2", "-v", "--async-write",
             "--transformers-cache", "x", "--safe-serialization", "--multi-gpu", "--read-to-gpu"]  # fmt: skip
    assert run(["merge", str(recipe), str(out), *flags]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1
    for idle in ("--lazy-unpickle", "--low-cpu-memory", "--allow-crimes", "--lora-merge-cache", "--clone-tensors"):
        assert idle in notes[0]
    assert "--random-seed" not in notes[0]
    assert not (out / "README.md").exists()
    assert json.loads((out / "chorus.json").read_text())["resolved"]["seed"] == 3


@pytest.mark.parametrize("flag", ["--out_dir", "--out-dir", "--out", "-o"])
def test_merge_knows_the_output_flag_under_every_name(recipe, out, flag):
    assert run(["merge", str(recipe), flag, str(out), "-q"]) == 0
    assert out.is_dir()


def test_merge_as_json(recipe, out, capsys):
    assert run(["merge", str(recipe), "-o", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["directory"] == str(out)
    assert facts["bytes_written"] == sum(t.nbytes for t in load_all(out).values())


def test_quiet_says_nothing(recipe, out, capsys):
    assert run(["merge", str(recipe), "-o", str(out), "--quiet", "--low-cpu-memory"]) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")


def test_plan_shows_models_tensors_sizes_and_reads_no_weight(recipe, qwen, tmp_path, capsys, monkeypatch):
    from chorus.checkpoints.lazy_tensor import MappedFile

    def forbidden(self):
        raise AssertionError("a weight was read")

    monkeypatch.setattr(MappedFile, "bytes", forbidden)
    assert run(["plan", str(recipe)]) == 0
    text = capsys.readouterr().out
    for word in (
        "tuned-0",
        "base",
        "mit",
        "model.layers.{0-3}.mlp.up_proj.weight",
        "language_model attention",
        "density 0.5",
    ):
        assert word in text, word
    assert run(["plan", str(recipe), "--tensors"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("model.")]
    assert len(lines) == len(load_all(qwen.base))
    assert run(["plan", str(recipe), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert len(facts["outputs"][0]["tensors"]) == len(lines)
    assert facts["bytes_to_read"] == 4 * facts["bytes_to_write"]
    assert not (tmp_path / "merged").exists()


def test_plan_lists_every_problem_at_once(qwen, tmp_path, capsys):
    made = qwen.recipe("ties", each=[{"weight": 1}, {"wieght": 1}, {"density": 7}])
    path = write_recipe(tmp_path / "r.yml", made)
    assert run(["plan", str(path)]) == 2
    text = capsys.readouterr().err
    assert 'did you mean "weight"' in text
    assert "must lie in 0 to 1, got 7" in text
    assert run(["plan", str(path), "--json"]) == 2
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 2


def test_methods_lists_and_explains(capsys):
    assert run(["methods"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert len(listed) == len(METHODS.names())
    for name in listed:
        assert run(["methods", name]) == 0
        text = capsys.readouterr().out
        for part in ("When: ", "Paper: ", "Parameters:", "Recipe:", f"merge_method: {name}"):
            assert part in text, (name, part)
    assert run(["methods", "ties", "--json"]) == 0
    density = next(p for p in json.loads(capsys.readouterr().out)["parameters"] if p["name"] == "density")
    assert (density["minimum"], density["maximum"], density["default"], density["per_model"]) == (0, 1, 1.0, True)
    assert run(["methods", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(METHODS.names())


def test_unknown_names_are_refused_with_the_nearest(capsys):
    assert run(["methods", "tise"]) == 2
    assert 'did you mean "ties"' in capsys.readouterr().err
    assert run(["merg"]) == 2
    assert 'did you mean "merge"' in capsys.readouterr().err
    assert run(["merge", "r.yml", "--ovrwrite"]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_doctor_tells_versions_devices_extras_and_caches(capsys):
    assert run(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["packages"]["torch"]
    assert "cpu" in facts["devices"]
    assert set(facts["extras"]) == {"audio", "evaluate", "train", "synth", "export", "verify", "test", "docs", "dev"}
    assert set(facts["caches"]) == {"hub", "compiled kernels", "spectra"}
    assert run(["doctor"]) == 0
    assert "chorus-merge" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell, capsys):
    assert run(["completion", shell]) == 0
    assert "_CHORUS_COMPLETE" in capsys.readouterr().out


def test_the_shell_completes_commands_and_methods():
    for words, expected in (("chorus pl", "plan"), ("chorus methods dare_l", "dare_linear")):
        environment = {
            **os.environ,
            "_CHORUS_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        }
        done = subprocess.run([CHORUS], env=environment, capture_output=True, text=True, check=False)
        assert expected in done.stdout


def modules_of(*arguments: str) -> set[str]:
    code = (
        f"import sys; from chorus.cli.main import run; run({list(arguments)!r}); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", [["--help"], ["methods"], ["methods", "ties"], ["merge", "--help"]])
def test_help_and_methods_import_neither_torch_nor_transformers(arguments):
    assert not {"torch", "transformers", "numba"} & modules_of(*arguments)


def test_planning_a_known_family_imports_neither_torch_nor_transformers(recipe):
    loaded = modules_of("plan", str(recipe))
    assert "chorus.merge.planning.planner" in loaded
    assert not {"torch", "transformers", "numba"} & loaded


def test_a_linear_merge_needs_no_torch(qwen, tmp_path, out):
    path = write_recipe(tmp_path / "r.yml", qwen.recipe("task_arithmetic", each=[{"weight": 0.3}] * 3))
    assert "torch" not in modules_of("merge", str(path), "-o", str(out), "-q")
    assert out.is_dir()


def test_debug_shows_the_traceback_and_nothing_else_does(tmp_path):
    missing = str(tmp_path / "none.yml")
    plain = subprocess.run([CHORUS, "plan", missing], capture_output=True, text=True, check=False)
    assert plain.returncode == 2
    assert "Traceback" not in plain.stderr
    debug = subprocess.run([CHORUS, "plan", missing, "--debug"], capture_output=True, text=True, check=False)
    assert "Traceback" in debug.stderr


def test_a_fault_of_ours_is_told_without_a_traceback(monkeypatch, capsys):
    import chorus.cli.plan

    def broken(*args, **kwargs):
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(chorus.cli.plan, "options_of", broken)
    assert run(["plan", "x.yml"]) == 4
    text = capsys.readouterr().err
    assert "ZeroDivisionError: inside" in text
    assert "please report" in text


def test_an_interrupt_leaves_with_130(monkeypatch, capsys):
    import chorus.cli.plan

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(chorus.cli.plan, "options_of", interrupted)
    assert run(["plan", "x.yml"]) == 130
    assert capsys.readouterr().err.strip() == "interrupted"


def test_a_closed_pipe_is_no_error(recipe):
    shell = f"'{CHORUS}' plan '{recipe}' --tensors | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


def test_progress_is_lines_where_there_is_no_terminal(recipe, out, monkeypatch, capsys):
    import chorus.progress

    monkeypatch.setattr(chorus.progress, "LINE_EVERY_S", 0.0)
    assert run(["merge", str(recipe), "-o", str(out)]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("merging: ")]
    assert lines
    assert all("% of" in line for line in lines)
    assert "/s, " in lines[-1]
    assert "s left" in lines[-1]


def test_the_resolved_recipe_can_be_run_again(recipe, out, tmp_path):
    """The recipe in the card is the one that was given, with names in the place of paths."""
    assert run(["merge", str(recipe), "-o", str(out), "-q"]) == 0
    block = (out / "README.md").read_text().split("```yaml\n")[1].split("```")[0]
    shown, given = yaml.safe_load(block), yaml.safe_load(recipe.read_text())
    assert shown["merge_method"] == given["merge_method"]
    assert [m["parameters"] for m in shown["models"]] == [m["parameters"] for m in given["models"]]
    assert shown["base_model"] == "base"
