"""Every block of the README and of docs/ runs, in the order of the page, on small local models of the same names."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

import chorus
from chorus.data.audio import write_flac
from chorus.data.synth import load_synth_recipe
from chorus.experiment.load import load_experiment
from chorus.merge.method import METHODS
from commands import FORKS, python, shell
from models import Family, build, copy_model, load_all, make_family, write_recipe
from sounds import tone

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"#\s*file: (\S+)\n")
PRINTED = ("architecture.md", "extending.md")  # pages that show what their code prints
OUTSIDE = ("accelerate launch", "pip install", "git clone", "make ", "cd ", "python examples/", "python benchmarks/")
SIDES = ("your-org/whisper-small-portuguese", "your-org/whisper-small-spanish")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A directory in which the documentation's names are small models."""
    place = tmp_path_factory.mktemp("docs")
    whisper = make_family(place / "family", "whisper", 3)
    for name, source in zip(("openai/whisper-small", *SIDES), (whisper.base, *whisper.tuned), strict=False):
        shutil.copytree(source, place / name)
    qwen = make_family(place / "qwen", "qwen2", 2)
    for name, source in zip(("qwen-base", "qwen-a", "qwen-b"), (qwen.base, *qwen.tuned), strict=True):
        shutil.copytree(source, place / name)
    adapters(place)
    recordings(place)
    shutil.copytree(ROOT / "examples", place / "examples")
    return place


def adapters(place: Path) -> None:
    from peft import LoraConfig, get_peft_model

    for i, name in enumerate(SIDES):
        tuned = get_peft_model(build("whisper"), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
        tuned.peft_config["default"].base_model_name_or_path = "openai/whisper-small"
        torch.manual_seed(i)
        for n, p in tuned.named_parameters():
            if "lora_B" in n:
                p.data.normal_(0, 0.02)
        tuned.save_pretrained(place / f"{name}-lora")


def recordings(place: Path) -> None:
    """A folder of recordings by speaker, one with tokens in its names, and what a small Whisper needs to learn them."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        for model in ("openai/whisper-small", *SIDES):
            shutil.copy(ROOT / "examples" / "digits" / "base" / name, place / model / name)
    numbers = iter(range(1000))
    for speaker in ("ana", "rui", "eva", "gil"):
        for word in ("one", "two", "three"):
            audio = tone(0.5, 200 + 10 * next(numbers), seed=next(numbers))
            write_flac(place / "speech" / speaker / f"{word}.flac", audio)
            (place / "speech" / speaker / f"{word}.txt").write_text(word)
    (place / "tokens" / "texts").mkdir(parents=True)
    for i, word in enumerate(("one", "two", "three", "four"), 1):
        (place / "tokens" / "texts" / f"f0{i}.txt").write_text(word)
        for session in ("s1", "s2", "s3"):
            audio = tone(0.5, 200 + 10 * next(numbers), seed=next(numbers))
            write_flac(place / "tokens" / "audio" / session / f"rec_F0{i}.flac", audio)


def put(place: Path, name: str, text: str) -> None:
    """Write a file of a page and see that it is what its name promises."""
    (place / name).write_text(text)
    if name.endswith(".py"):
        compile(text, name, "exec")
    elif '"expected"' in text:  # a golden fixture, which the page checks itself
        json.loads(text)
    elif name.startswith("synth"):
        load_synth_recipe(place / name)
    elif name.startswith("experiment"):
        load_experiment(place / name)
    elif "merge_method" in text:
        chorus.load_recipe(place / name)
    else:
        chorus.load_train_config(place / name)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_block_runs(page, models, tmp_path):
    place = tmp_path / "here"
    shutil.copytree(models, place)
    blocks = BLOCK.findall(page.read_text())
    ran, printed = 0, ""
    for language, text in blocks:
        named = FILE.match(text)
        if language == "console":
            lines = [line for line in text.splitlines() if line.strip()]
            assert all(line.startswith(OUTSIDE) for line in lines), "not to be run, and not set-up either"
        elif named:
            put(place, named[1], text)
        elif language == "json":
            put(place, "guide.json", text)
        elif language in ("bash", "python"):
            forks = FORKS and page.name != "README.md"  # the first page as its readers run it: a process each
            done = (shell if language == "bash" else python)(text, cwd=place, forks=forks)
            assert done.returncode == 0, f"{text}\n{done.stderr}"
            printed = done.stdout
        elif language == "yaml":
            assert chorus.load_recipe(text).recipe.merge_method in METHODS
        else:
            assert language == "text", f"a block of an unknown kind: {language!r}"
            if printed and page.name in PRINTED:  # below the code that prints it
                assert text == printed
                printed = ""
            continue
        ran += 1
    counts = {
        "cli.md": 3,
        "differences.md": 0,
        "methods.md": len(METHODS.names()),
        "index.md": 1,
        "api.md": 1,
        "architecture.md": 1,
        "extending.md": 15,
        "recipes.md": 4,
        "whisper.md": 9,
        "README.md": 4,
        "adapters.md": 6,
        "continual.md": 2,
        "subspace.md": 2,
        "data.md": 3,
        "train.md": 7,
        "whisper-finetuning.md": 2,
        "evaluate.md": 3,
        "analyse.md": 12,
        "experiments.md": 7,
        "export.md": 5,
        "transcribe.md": 1,
        "getting-started.md": 8,
        "conversion-guide.md": 1,
        "one-adapter-a-customer.md": 3,
        "calibrate.md": 2,
    }
    assert ran >= counts.get(page.name, 0)


def share(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    return (1 - t) * a.double() + t * b.double()


def arc(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """Shoemake's slerp of the flattened tensors, in float64; linear beyond a cosine of 0.9995."""
    x, y = a.double(), b.double()
    cosine = float((x * y).sum() / x.norm() / y.norm())
    if abs(cosine) > 0.9995:
        return share(a, b, t)
    angle = torch.arccos(torch.tensor(cosine, dtype=torch.float64))
    return (torch.sin((1 - t) * angle) * x + torch.sin(t * angle) * y) / torch.sin(angle)


def test_the_guides_slerp_takes_t_from_the_weights(models, out, monkeypatch):
    monkeypatch.chdir(models)
    chorus.merge(ROOT / "examples" / "whisper-merge-multilingual.yml", out)
    a, b, found = (load_all(models / n) for n in (*SIDES, str(out)))
    for name in ("model.encoder.layers.0.fc1.weight", "model.decoder.layers.2.encoder_attn.q_proj.bias"):
        assert torch.allclose(found[name].double(), arc(a[name], b[name], 0.4), rtol=1e-3, atol=1e-7), name
    assert {t.dtype for t in found.values()} == {torch.float16}


def test_the_guides_slerp_over_two_adapters(models, out, monkeypatch):
    from peft import PeftModel

    monkeypatch.chdir(models)
    chorus.merge(ROOT / "examples" / "whisper-lora-multilingual.yml", out)
    found = load_all(out)
    from transformers import WhisperForConditionalGeneration

    sides = []
    for name in SIDES:
        base = WhisperForConditionalGeneration.from_pretrained(models / "openai/whisper-small")
        sides.append(PeftModel.from_pretrained(base, models / f"{name}-lora").merge_and_unload().state_dict())
    name = "model.decoder.layers.1.self_attn.q_proj.weight"
    assert torch.allclose(found[name].double(), arc(sides[0][name], sides[1][name], 0.5), rtol=1e-3, atol=1e-7)


def test_the_guides_sides(models, out, monkeypatch):
    monkeypatch.chdir(models)
    chorus.merge(ROOT / "examples" / "whisper-encoder-decoder-weighted.yml", out)
    a, b, found = (load_all(models / n) for n in (*SIDES, str(out)))
    for name, t in (
        ("model.encoder.layers.1.fc2.weight", 0.3),
        ("model.encoder.conv1.weight", 0.3),
        ("model.decoder.layers.1.fc2.weight", 0.7),
        ("model.decoder.embed_tokens.weight", 0.7),
        ("model.decoder.layers.1.encoder_attn.v_proj.weight", 0.6 / 1.1),
        ("model.decoder.layers.1.encoder_attn_layer_norm.weight", 0.6 / 1.1),
    ):
        assert torch.allclose(
            found[name].double(), share(a[name], b[name], t), atol=6e-4 * float(a[name].abs().max())
        ), name


def test_the_weighted_spherical_mean_of_three(tmp_path, out, whisper: Family):
    copies = [copy_model(p, tmp_path / f"m{i}") for i, p in enumerate(whisper.tuned)]
    models = [{"model": str(p), "parameters": {"weight": w}} for p, w in zip(copies, (1, 2, 5), strict=True)]
    chorus.merge(write_recipe(tmp_path / "r.yml", {"merge_method": "slerp", "models": models}), out)
    name = "model.encoder.layers.1.fc2.weight"
    x = [load_all(p)[name].double() for p in copies]
    shares = torch.tensor([0.125, 0.25, 0.625], dtype=torch.float64)
    direction = sum(s * t / t.norm() for s, t in zip(shares, x, strict=True))
    expected = direction / direction.norm() * sum(s * t.norm() for s, t in zip(shares, x, strict=True))
    assert torch.allclose(load_all(out)[name].double(), expected, atol=1e-8)
