"""The real process, killed at random points of a merge of seconds, resumes to the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
import torch

from chorus.architectures.layouts import inventory_of
from models import files_of, write_model, write_recipe

CHORUS = Path(sysconfig.get_path("scripts")) / "chorus"
KILLS, BLOCK = 20, 65_536
CONFIG = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "num_hidden_layers": 32, "hidden_size": 512,
          "intermediate_size": 2048, "num_attention_heads": 4, "num_key_value_heads": 1, "vocab_size": 10_000,
          "tie_word_embeddings": True}  # fmt: skip
INVENTORY = inventory_of(CONFIG, [])
SHAPES = {n: s for n, s in INVENTORY.shapes.items() if n not in INVENTORY.tied}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """TIES over three models of 118 million values each: five seconds of work and more."""
    place = tmp_path_factory.mktemp("kill")
    numbers = torch.Generator().manual_seed(0)
    base = {n: torch.randn(s, generator=numbers) * 0.02 for n, s in SHAPES.items()}
    paths = []
    for i in range(4):
        tensors = {
            n: (t + torch.randn(t.shape, generator=numbers) * 3e-4 * (i > 0)).bfloat16() for n, t in base.items()
        }
        paths.append(write_model(place / f"m{i}", tensors, CONFIG))
    models = [{"model": str(p), "parameters": {"weight": 1.0, "density": 0.5}} for p in paths[1:]]
    made = {"merge_method": "ties", "base_model": str(paths[0]), "models": models, "parameters": {"rescale": True}}
    return write_recipe(place / "recipe.yml", made)


def passed(shape):
    """Values that are read for a tensor of one model: five passes by blocks, or one where a block holds all of it."""
    values = torch.Size(shape).numel()
    return values if values <= BLOCK else 5 * values


def command(recipe, out, *more):
    return [
        str(CHORUS),
        "merge",
        str(recipe),
        "-o",
        str(out),
        "--json",
        "-q",
        "-j",
        "1",
        "--block-size",
        str(BLOCK),
        *more,
    ]


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_bytes(recipe, tmp_path):
    straight, out, partial = tmp_path / "straight", tmp_path / "merged", tmp_path / "merged.partial"
    subprocess.run(command(recipe, straight), check=True, capture_output=True)  # compiles, fills the page cache
    subprocess.run(command(recipe, straight, "--overwrite"), check=True, capture_output=True)
    started = time.monotonic()
    done = subprocess.run(command(recipe, straight, "--overwrite"), check=True, capture_output=True)
    duration = time.monotonic() - started
    whole = json.loads(done.stdout)
    assert duration >= 5, f"the merge takes {duration:.1f} s: too short for this test"
    expected = files_of(straight)

    rng, while_writing, kills = random.Random(0), 0, 0
    while kills < KILLS or (while_writing < 15 and kills < 3 * KILLS):  # a busy machine starts later than planned
        for path in (out, partial):
            subprocess.run(["rm", "-rf", str(path)], check=True)
        process = subprocess.Popen(command(recipe, out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(rng.uniform(0.1, 0.97) * duration)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if process.returncode != -signal.SIGKILL:
            continue  # it had ended already
        kills += 1
        if out.exists():  # killed between the last rename and its end: then everything is there
            assert files_of(out) == expected
            continue
        journal = partial / ".chorus-journal.jsonl"
        finished = (
            [json.loads(line)["entry"] for line in journal.read_text().splitlines()[1:]] if journal.exists() else []
        )
        while_writing += journal.exists() and len(finished) < len(SHAPES)
        again = subprocess.run(command(recipe, out, "--resume"), capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        result = json.loads(again.stdout)
        assert files_of(out) == expected, f"killed with {len(finished)} tensors finished"
        assert result["resumed"] == len(finished)
        share = sum(passed(SHAPES[e["tensor"]]) for e in finished) / sum(map(passed, SHAPES.values()))
        # every pass over an unfinished tensor is read again, and nothing else
        assert result["bytes_read"] == pytest.approx(whole["bytes_read"] * (1 - share), rel=0.02)
    assert while_writing >= 15, f"only {while_writing} of {kills} kills hit the writing of tensors"
    print(f"{kills} kills, {while_writing} while tensors were written, of a merge of {duration:.1f} s", file=sys.stderr)
