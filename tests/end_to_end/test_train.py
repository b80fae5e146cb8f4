"""Trainings from the first row to the last file: every adapter kind, every model, kills, bad input, many at once."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import chorus
import commands
from chorus.data.manifest import write_manifest
from chorus.errors import ChorusError, OutputError, RecipeError
from chorus.train import checkpoints, trainer
from chorus.train.backbones.whisper import WhisperBackbone
from chorus.train.layers import load_train_config
from chorus.train.run import train
from models import load_all, write_recipe
from sounds import BASE, MANIFEST, TRANSCRIBERS, corpus, tiny

KINDS = ("lora", "rslora", "dora", "pissa", "olora", "eva")
QUICK = ["train.epochs=1", "train.batch_size=8", "train.window_s=3", "dev.limit=4", "dev.max_new_tokens=8"]


@pytest.fixture
def settings(tmp_path):
    """A configuration over a few recordings of one speaker, into this test's own folder."""
    source = {"manifest": str(MANIFEST), "where": {"speaker": "george"}, "limit": 24}
    document = {
        "model": {"base": str(BASE)},
        "data": {"train": source, "dev": {**source, "split": "dev", "limit": 4}, "language": "en"},
        "output": str(tmp_path / "out"),
        "logs": str(tmp_path / "logs"),
    }

    def made(*overrides, **changes):
        return load_train_config({**document, **changes}, overrides=[*QUICK, *overrides])

    return made


def logits(model):
    """Of a fixed random input; float32, no dropout."""
    torch.manual_seed(0)
    inputs = {
        "input_features": torch.randn(2, 80, 3000),
        "decoder_input_ids": torch.tensor([[50258, 50259, 50359, 50363]] * 2),
    }
    with torch.no_grad():
        return model.eval()(**inputs).logits


def whisper_at(path):
    from transformers import WhisperForConditionalGeneration

    return WhisperForConditionalGeneration.from_pretrained(path, dtype=torch.float32)


# ---- what a training leaves ----


def test_a_full_fine_tune_leaves_what_every_runtime_asks_for(settings, tmp_path):
    result = train(settings("train.epochs=2", "train.learning_rate=3e-4", "dev.limit=3"))
    out = tmp_path / "out"
    names = {p.name for p in out.iterdir()}
    assert names >= {
        "config.json", "model.safetensors", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
        "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json", "preprocessor_config.json",
        "README.md", "chorus.json", "curve.png",
    }  # fmt: skip
    assert "processor_config.json" not in names  # transformers up to 4.55 cannot read it
    assert result.steps == 6
    facts = json.loads((out / "chorus.json").read_text())
    assert facts["data"]["train_rows"] == 24
    assert facts["data"]["dev_rows"] == 3  # as many as were measured
    assert facts["data"]["manifests"].keys() == {"manifest.csv"}
    assert facts["curve"]["dev_wer"][0][0] == 0
    assert facts["trained_parameters"] == facts["parameters"] - 1500 * 64  # all but the sinusoids
    text = (out / "chorus.json").read_text() + (out / "README.md").read_text()
    assert str(tmp_path) not in text
    assert str(BASE) not in text
    assert "base_model" not in (out / "README.md").read_text().split("---")[1], "the base is not on the hub"
    before, after = whisper_at(BASE).state_dict(), whisper_at(out).state_dict()
    name = "model.encoder.embed_positions.weight"
    assert torch.equal(before[name], after[name])
    assert not torch.equal(before["model.encoder.conv1.weight"], after["model.encoder.conv1.weight"])
    assert not list((tmp_path / "logs").glob("checkpoint-*"))
    assert os.stat(out / "model.safetensors").st_mode & 0o044 == os.stat(out / "config.json").st_mode & 0o044
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["lang_to_id"]["<|en|>"] == 50259
    assert "forced_decoder_ids" not in generation


def test_the_specialist_can_be_merged(settings, tmp_path):
    train(settings("train.learning_rate=3e-4"))
    recipe = {"merge_method": "task_arithmetic", "base_model": str(BASE), "models": [{"model": str(tmp_path / "out")}]}
    chorus.merge(write_recipe(tmp_path / "r.yml", recipe), tmp_path / "merged")
    tuned, merged = load_all(tmp_path / "out"), load_all(tmp_path / "merged")
    worst = max(float((tuned[n].float() - merged[n].float()).abs().max()) for n in tuned)
    assert worst < 2e-3  # the result has the base's float16


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_merges_as_peft_merges_it(settings, tmp_path, kind):
    """Trained, saved, reloaded and merged by chorus: the logits of PEFT's own merge_and_unload."""
    from peft import PeftModel

    train(settings(f"adapter.type={kind}", "adapter.rank=4", "train.learning_rate=3e-3"))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(BASE)
    assert config["use_dora"] == (kind == "dora")
    if kind in ("pissa", "olora"):
        assert config["init_lora_weights"] is True
        assert config["r"] == 8  # the difference to the start: twice the rank
    base = whisper_at(BASE)
    plain = logits(base)
    theirs = logits(PeftModel.from_pretrained(base, tmp_path / "out").merge_and_unload())
    recipe = {
        "merge_method": "linear",
        "models": [{"model": f"{BASE}+{tmp_path / 'out'}", "parameters": {"weight": 1}}],
        "out_dtype": "float32",
    }
    chorus.merge(write_recipe(tmp_path / "r.yml", recipe), tmp_path / "merged")
    ours = logits(whisper_at(tmp_path / "merged"))
    assert float((ours - theirs).abs().max()) < 1e-5
    assert float((plain - theirs).abs().max()) > 1e-2


@pytest.mark.parametrize(
    "overrides",
    [
        ["adapter.save_modules=[layer_norm]", "adapter.roles=[encoder]"],
        ["adapter.bias=lora_only"],
        ["adapter.rank_pattern={q_proj: 2, fc1: 8}", "adapter.alpha_pattern={fc2: 64}"],
        ["adapter.type=pissa", "adapter.rank_pattern={q_proj: 2}", "adapter.dropout=0.1"],
        ["adapter.init=orthogonal"],
    ],
    ids=["saved modules", "biases", "patterns", "pissa with patterns", "orthogonal"],
)
def test_the_other_settings_of_adapters_merge_alike(settings, tmp_path, overrides):
    from peft import PeftModel

    train(settings("adapter.rank=4", "train.learning_rate=3e-3", *overrides))
    theirs = logits(PeftModel.from_pretrained(whisper_at(BASE), tmp_path / "out").merge_and_unload())
    recipe = {
        "merge_method": "linear",
        "models": [{"model": f"{BASE}+{tmp_path / 'out'}", "parameters": {"weight": 1}}],
    }
    chorus.merge(write_recipe(tmp_path / "r.yml", {**recipe, "out_dtype": "float32"}), tmp_path / "merged")
    assert float((logits(whisper_at(tmp_path / "merged")) - theirs).abs().max()) < 1e-5


@pytest.mark.parametrize(
    "overrides",
    [
        ["adapter.modules=[embed_tokens]", "adapter.roles=[embeddings]"],
        ["adapter.save_modules=[embed_tokens]", "adapter.roles=[encoder]"],
    ],
    ids=["an embedding", "an embedding saved whole"],
)
def test_what_is_tied_and_learns_by_itself_is_merged_as_it_was_trained(settings, tmp_path, overrides):
    """As PEFT's forward has it; its merge would add what the embedding has learnt to the head too."""
    from peft import PeftModel

    result = train(settings("adapter.rank=4", "train.learning_rate=3e-3", "adapter.merge=true", *overrides))
    theirs = logits(PeftModel.from_pretrained(whisper_at(BASE), tmp_path / "out"))
    recipe = {
        "merge_method": "linear",
        "models": [{"model": f"{BASE}+{tmp_path / 'out'}", "parameters": {"weight": 1}}],
    }
    chorus.merge(write_recipe(tmp_path / "r.yml", {**recipe, "out_dtype": "float32"}), tmp_path / "merged")
    for place in (result.merged, tmp_path / "merged"):
        assert float((logits(whisper_at(place)) - theirs).abs().max()) < 1e-5
    assert float((logits(whisper_at(BASE)) - theirs).abs().max()) > 1e-3


def test_merge_writes_the_merged_model_too(settings, tmp_path):
    from peft import PeftModel

    result = train(settings("adapter.rank=4", "adapter.merge=true", "train.learning_rate=3e-3"))
    assert result.merged == tmp_path / "out-merged"
    theirs = logits(PeftModel.from_pretrained(whisper_at(BASE), tmp_path / "out").merge_and_unload())
    assert torch.allclose(logits(whisper_at(result.merged)), theirs, atol=1e-5)
    assert (result.merged / "vocab.json").exists()


def test_an_adapter_can_be_trained_further(settings, tmp_path):
    train(settings("adapter.rank=4", "train.learning_rate=3e-3"))
    first = load_file(tmp_path / "out" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    # `re`, which PEFT gives it to, would not come to an end
    config["alpha_pattern"] = {"(.*)*x": 4}
    (tmp_path / "out" / "adapter_config.json").write_text(json.dumps(config))
    train(
        settings(
            f"model.adapter={tmp_path / 'out'}",
            "train.learning_rate=1e-9",
            output=str(tmp_path / "next"),
            logs=str(tmp_path / "l2"),
        )
    )
    second = load_file(tmp_path / "next" / "adapter_model.safetensors")
    assert all(torch.allclose(first[n], second[n], atol=1e-6) for n in first)
    with pytest.raises(ChorusError, match="not an adapter"):
        train(settings(f"model.adapter={BASE}", output=str(tmp_path / "x"), logs=str(tmp_path / "l3")))


@pytest.mark.parametrize("kind", ["qwen2", "qwen2_audio", "omni", *TRANSCRIBERS, "wav2vec2", "wav2vec2_pretrained"])
@pytest.mark.parametrize("way", ["full", "lora"])
def test_other_models_train_and_their_adapters_merge(tmp_path, kind, way):
    import transformers
    from peft import PeftModel

    manifest, _ = corpus(tmp_path / "speech")
    base = tiny(tmp_path / "base", kind)
    config = {
        "task": "lm" if kind == "qwen2" else "asr",
        "model": {"base": str(base)},
        "data": {"train": str(manifest)},
        "train": {"epochs": 2, "batch_size": 4, "learning_rate": 3e-3},
        "dev": {"max_new_tokens": 3},
        "output": str(tmp_path / "out"),
        "logs": str(tmp_path / "logs"),
    }
    if way == "lora":
        config["adapter"] = {"rank": 2}
    result = train(load_train_config(config))
    facts = json.loads((tmp_path / "out" / "chorus.json").read_text())
    losses = [v for _, v in facts["curve"]["dev_loss"]]
    assert losses[-1] < losses[0]
    assert result.steps == 4
    if way == "full" or kind == "wav2vec2_pretrained":  # the latter's base has no head that a merge could keep
        return
    cls = getattr(transformers, json.loads((base / "config.json").read_text())["architectures"][0])
    recipe = {
        "merge_method": "linear",
        "models": [{"model": f"{base}+{tmp_path / 'out'}", "parameters": {"weight": 1}}],
    }
    chorus.merge(write_recipe(tmp_path / "r.yml", recipe), tmp_path / "merged")
    theirs = PeftModel.from_pretrained(cls.from_pretrained(base), tmp_path / "out").merge_and_unload().state_dict()
    ours = cls.from_pretrained(tmp_path / "merged").state_dict()
    assert ours.keys() == theirs.keys()
    assert max(float((ours[n].float() - theirs[n].float()).abs().max()) for n in ours) < 1e-6


def test_a_dataset_can_be_streamed(tmp_path, settings):
    pytest.importorskip("datasets", reason='needs pip install "chorus-merge[train]"')
    _, rows = corpus(tmp_path / "speech", 8)
    data = tmp_path / "data"
    data.mkdir()
    records = [{"audio": str(r.audio), "text": r.text} for r in rows]
    (data / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    source = {"dataset": str(data), "split": "train", "streaming": True, "columns": {"path": "audio"}, "language": "en"}
    made = settings(
        "train.steps=3",
        "train.batch_size=4",
        data={"train": source, "dev": str(tmp_path / "speech" / "manifest.csv"), "language": "en"},
    )
    assert train(made, allow_leakage=True).steps == 3
    with pytest.raises(ChorusError, match="a streamed dataset has no length"):
        train(settings(data={"train": source, "language": "en"}, output=str(tmp_path / "y"), logs=str(tmp_path / "z")))


# ---- kills and resumes ----


def history(folder: Path):
    return [
        (h["step"], h.get("loss"), h.get("eval_loss"), h.get("eval_wer"))
        for h in json.loads((folder / "log.json").read_text())["history"]
    ]


class Killed(BaseException):
    pass


def kill_at(step, monkeypatch):
    """Stop as a kill would, in the middle of a step."""
    original = trainer.SpeechTrainer.training_step

    def stopping(self, *arguments, **more):
        if self.state.global_step == step:
            raise Killed
        return original(self, *arguments, **more)

    monkeypatch.setattr(trainer.SpeechTrainer, "training_step", stopping)


@pytest.mark.parametrize("kind", [None, "pissa", "eva"])
@pytest.mark.parametrize("step", [4, 7])
def test_a_killed_training_goes_on_to_the_same_losses_and_bytes(settings, tmp_path, monkeypatch, kind, step):
    more = ["train.epochs=3", "dev.every_steps=3", "train.log_steps=1", "augment.speed=[0.9, 1.1]", "augment.noise=0.5"]
    if kind:
        more += [f"adapter.type={kind}", "adapter.rank=4", "adapter.dropout=0.2"]
    straight = {"output": str(tmp_path / "a"), "logs": str(tmp_path / "la")}
    stopped = {"output": str(tmp_path / "b"), "logs": str(tmp_path / "lb")}
    train(settings(*more, **straight))
    with monkeypatch.context() as patch:
        kill_at(step, patch)
        with pytest.raises(Killed):
            train(settings(*more, **stopped))
    broken = tmp_path / "lb" / "checkpoint-8"
    broken.mkdir()
    (broken / "trainer_state.json").write_text("{")  # cut off while it was written
    told = []
    train(settings(*more, **stopped), note=told.append)
    assert any("going on from" in t and f"checkpoint-{step // 3 * 3}" in t for t in told)
    assert history(tmp_path / "lb") == history(tmp_path / "la")
    assert len(history(tmp_path / "la")) > 9
    name = "adapter_model.safetensors" if kind else "model.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a" / "chorus.json").read_bytes() == (tmp_path / "b" / "chorus.json").read_bytes()


def test_a_finished_training_is_not_trained_again(settings, tmp_path):
    first = train(settings())
    stamp = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    again = train(settings())
    assert again.reused
    assert (again.best, again.before, again.steps) == (first.best, first.before, first.steps)
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(OutputError, match="a training with other settings"):
        train(settings("train.learning_rate=1e-3"))
    assert not train(settings("train.learning_rate=1e-3"), overwrite=True).reused


def test_checkpoints_between_measurements(settings, tmp_path, monkeypatch):
    more = ["train.epochs=2", "train.save_steps=2", "train.log_steps=1"]
    with monkeypatch.context() as patch:
        kill_at(5, patch)
        with pytest.raises(Killed):
            train(settings(*more))
    assert (tmp_path / "logs" / "checkpoint-4" / checkpoints.WHOLE).exists()
    told = []
    result = train(settings(*more), note=told.append)
    assert any("checkpoint-4" in t for t in told)
    facts = json.loads((tmp_path / "out" / "chorus.json").read_text())
    assert [s for s, _ in facts["curve"]["dev_wer"]] == [0, 3, 6]
    assert result.best == min(v for s, v in facts["curve"]["dev_wer"] if s)
    assert dict(facts["curve"]["dev_wer"])[result.best_step] == result.best


def test_checkpoints_of_other_settings_are_not_gone_on_from(settings, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at(2, patch)
        with pytest.raises(Killed):
            train(settings("dev.every_steps=1"))
    with pytest.raises(OutputError, match="the checkpoints there belong to a training with other settings"):
        train(settings("dev.every_steps=1", "seed=3"))
    other = tmp_path / "logs" / "d0" / "checkpoint-7"  # of a campaign that logs below
    other.mkdir(parents=True)
    assert train(settings("dev.every_steps=1", "seed=3"), restart=True).steps == 3
    assert other.exists()


# ---- bad input ----


def test_a_loss_that_is_not_finite_stops_with_its_step_and_rows(settings, monkeypatch):
    original = WhisperBackbone.collate

    def poisoned(self, examples):
        batch = original(self, examples)
        if examples[0].row >= 0 and len(seen) == 1:
            batch["input_features"][0, 0, 0] = float("nan")
        seen.append(1)
        return batch

    seen = []
    monkeypatch.setattr(WhisperBackbone, "collate", poisoned)
    with pytest.raises(ChorusError, match=r"the loss is nan at step \d; its batch: george-train\.flac \[") as error:
        train(settings("dev.every_steps=100", data={**settings().data.model_dump(), "dev": []}))
    assert error.value.message.count("george-train.flac") == 8


@pytest.mark.parametrize("where", ["model", "state"])
def test_a_full_disk_leaves_the_last_good_checkpoint(settings, tmp_path, monkeypatch, where):
    full = OSError(errno.ENOSPC, "No space left on device")

    def fails(self, *arguments, **more):
        if self.state.global_step == 2:
            raise full
        return original(self, *arguments, **more)

    name = "save_model" if where == "model" else "_save_rng_state"
    original = getattr(trainer.SpeechTrainer, name)
    with monkeypatch.context() as patch:
        patch.setattr(trainer.SpeechTrainer, name, fails)
        with pytest.raises(OutputError, match=r"could not be written .*checkpoint-1 is kept"):
            train(settings("dev.every_steps=1"))
    assert [p.name for p in (tmp_path / "logs").glob("checkpoint-*")] == ["checkpoint-1"]
    assert train(settings("dev.every_steps=1")).steps == 3


def test_languages_and_texts_that_the_model_does_not_know(settings, tmp_path):
    _, rows = corpus(tmp_path / "speech")
    from dataclasses import replace

    bad = [replace(rows[0], language="tlh"), replace(rows[1], text="a b " * 400), *rows[2:]]
    manifest = write_manifest(bad, tmp_path / "speech" / "bad.csv")
    data = {"train": str(manifest), "dev": []}
    with pytest.raises(ChorusError) as error:
        train(settings(data=data))
    assert "1 unknown language: audio/000.flac: tlh" in error.value.message
    assert "1 text too long: audio/001.flac: " in error.value.message
    assert train(settings(data=data), skip_bad=True).left_out == {"unknown language": 1, "text too long": 1}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adapter.rank=65"], "rank 65 is above what"),
        (["adapter.modules=[o_proj]"], '"o_proj" matches no module'),
        (["adapter.roles=[vision]"], 'the model has no "vision"'),
        (["model.freeze=[encodr]"], 'the model has no "encodr"; did you mean "encoder"'),
    ],
)
def test_adapters_that_do_not_fit(settings, overrides, message):
    with pytest.raises(RecipeError) as error:
        train(settings(*overrides))
    assert message in error.value.message


def test_an_optimizer_that_nobody_knows(settings):
    with pytest.raises(ChorusError, match=r'train\.optimizer: unknown "adamw_troch"; did you mean "adamw_torch"'):
        train(settings("train.optimizer=adamw_troch"))


def test_a_device_that_is_not_there(settings):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ChorusError, match="device cuda: not there"):
        train(settings("device=cuda"))


def test_one_way_of_timestamps_is_warned_about(settings):
    told = []
    train(settings("data.timestamps=0"), note=told.append)
    assert any(t.startswith("WARNING: every target is without timestamps") for t in told)


@pytest.mark.parametrize("way", [[], ["adapter.rank=4"]], ids=["full", "adapter"])
def test_accumulation_and_checkpointing_change_no_loss(settings, tmp_path, way):
    """Twice four rows are eight rows; layers that are computed again give the same gradients, in a short window too."""
    curves = {}
    for name, more in {
        "plain": ["train.batch_size=8"],
        "accumulated": ["train.batch_size=4", "train.accumulation=2"],
        "checkpointed": ["train.batch_size=8", "train.gradient_checkpointing=true"],
    }.items():
        place = {"output": str(tmp_path / name), "logs": str(tmp_path / f"l{name}")}
        train(
            settings(
                "train.group_by_length=false", "data.timestamps=0.5", "train.learning_rate=1e-3", *way, *more, **place
            )
        )
        curves[name] = json.loads((tmp_path / name / "chorus.json").read_text())["curve"]["dev_loss"]
    assert curves["plain"][-1][1] != curves["plain"][0][1]
    for name in ("accumulated", "checkpointed"):
        assert [s for s, _ in curves[name]] == [s for s, _ in curves["plain"]]
        assert [v for _, v in curves[name]] == pytest.approx([v for _, v in curves["plain"]], abs=2e-3), name


def test_workers_draw_what_one_process_draws(settings, tmp_path):
    weights = []
    for workers in (0, 2):
        place = {"output": str(tmp_path / f"o{workers}"), "logs": str(tmp_path / f"l{workers}")}
        train(settings(f"train.workers={workers}", "augment.speed=[0.9, 1.1]", "augment.noise=1", **place))
        weights.append((tmp_path / f"o{workers}" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_mixed_precision(settings, tmp_path):
    train(settings("train.precision=bfloat16", "train.learning_rate=3e-4"))
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {t.dtype for t in weights.values()} == {torch.float32}  # the weights themselves stay whole


def test_reporters_that_are_not_there(settings, monkeypatch):
    monkeypatch.setattr("chorus.train.environment.find_spec", lambda name: None)
    with pytest.raises(ChorusError, match=r"train\.report_to: wandb needs wandb, which is not installed") as error:
        train(settings("train.report_to=wandb"))
    assert error.value.hint == "pip install wandb"
    with pytest.raises(ChorusError, match='unknown "tensorbord"; did you mean "tensorboard"'):
        train(settings("train.report_to=tensorbord"))


def test_early_stopping(settings):
    result = train(
        settings("train.epochs=20", "dev.every_steps=1", "train.early_stopping=2", "train.learning_rate=1e-9")
    )
    assert result.steps == 3  # the first is the best, two more are no better


# ---- many at once ----


@pytest.fixture
def campaign(tmp_path):
    manifest, _ = corpus(tmp_path / "speech", 16)
    (tmp_path / "c.yaml").write_text(
        json.dumps(
            {
                "model": {"base": str(tiny(tmp_path / "base", "wav2vec2"))},
                "data": {"train": str(manifest)},
                "train": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3},
            }
        )
    )
    return tmp_path


def test_one_specialist_for_each_domain_and_one_for_all(campaign):
    done = commands.chorus("train", "c.yaml", "--each", "domain", "--joint", "--parallel", "2", "--json", cwd=campaign)
    assert done.returncode == 0, done.stderr
    found = {r["job"]: r for r in json.loads(done.stdout)}
    assert list(found) == ["d0", "d1", "joint"]
    rows = {}
    for name in found:
        facts = json.loads((campaign / "artifacts" / "asr" / name / "chorus.json").read_text())
        rows[name] = facts["data"]["domain"]
    assert rows["d0"].keys() == {"d0"}
    assert rows["joint"].keys() == {"d0", "d1"}
    assert sum(rows["joint"].values()) == sum(rows["d0"].values()) + sum(rows["d1"].values())
    over = commands.chorus(
        "train", "c.yaml", "--overwrite", cwd=campaign
    )  # of the same name: it must not take these away
    assert over.returncode == 4
    assert "artifacts/asr: holds other results (d0, d1, joint)" in over.stderr
    stamp = (campaign / "artifacts" / "asr" / "d0" / "model.safetensors").stat().st_mtime_ns
    (campaign / "artifacts" / "asr" / "d1" / "chorus.json").rename(campaign / "gone.json")
    for path in (campaign / "artifacts" / "asr" / "d1").iterdir():
        path.unlink()
    again = commands.chorus("train", "c.yaml", "--each", "domain", "--json", cwd=campaign)
    assert [r["reused"] for r in json.loads(again.stdout)] == [True, False]
    assert (campaign / "artifacts" / "asr" / "d0" / "model.safetensors").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("adapter", [False, True])
def test_one_domain_after_another(campaign, adapter):
    more = ["adapter.rank=2"] if adapter else []
    done = commands.chorus("train", "c.yaml", *more, "--continual", "--only", "d1", "--only", "d0", cwd=campaign)
    assert done.returncode == 0, done.stderr
    assert "continual-1-d1" in done.stdout
    place = campaign / "artifacts" / "asr"
    facts = json.loads((place / "continual" / "chorus.json").read_text())
    assert facts["data"]["domain"].keys() == {"d0"}
    started = facts["config"]["model"]["adapter" if adapter else "base"]
    assert started == "continual-1-d1"


def test_a_failed_training_does_not_stop_the_others(campaign):
    (campaign / "artifacts" / "asr" / "d0").mkdir(parents=True)
    (campaign / "artifacts" / "asr" / "d0" / "mine.txt").write_text("keep")
    done = commands.chorus("train", "c.yaml", "--each", "domain", cwd=campaign)
    assert done.returncode == 4
    assert "1 of 2 trainings failed" in done.stderr
    assert "d0: " in done.stderr
    assert "holds something else" in done.stderr
    assert (campaign / "artifacts" / "asr" / "d1" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--each", "speker"], 'no training row has the column "speker"; did you mean "speaker"'),
        (["--each", "domain", "--only", "d7"], '--only d7: no training row has domain "d7"; known: d0, d1'),
        (["--parallel", "2"], "--only, --by, --order and --parallel go with --each"),
    ],
)
def test_campaigns_that_are_wrong(campaign, arguments, message):
    done = commands.chorus("train", "c.yaml", *arguments, cwd=campaign)
    assert done.returncode in (2, 4)
    assert message in done.stderr


def test_an_interrupt_ends_a_campaign_and_its_trainings(campaign):
    """Ctrl-C reaches the whole group; no training is begun after it."""
    command = [sys.executable, "-m", "chorus", "train", "c.yaml", "train.epochs=400", "--each", "domain"]
    with subprocess.Popen(
        command, cwd=campaign, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # a shell's background jobs ignore Ctrl-C, and hand that on to the tests that they run
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as child:  # fmt: skip
        for line in child.stderr:
            if "before it" in line:
                break
        os.killpg(child.pid, signal.SIGINT)
        _, told = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "interrupted" in told
    assert not (campaign / "artifacts").exists()
    assert not (campaign / "runs" / "asr" / "d1").exists()


def test_a_training_that_does_not_hear_ctrl_c_is_ended(monkeypatch):
    from chorus.train import campaign as module

    monkeypatch.setattr(module, "GRACE_S", 0.2)
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", deaf], text=True)
    module._end({child})
    assert child.wait(timeout=10) == -signal.SIGTERM


def test_values_that_would_share_a_folder(tmp_path):
    from dataclasses import replace

    from chorus.errors import UsageError
    from chorus.train.jobs import plan_jobs

    _, rows = corpus(tmp_path)
    named = [replace(r, domain="a b" if i % 2 else "a/b") for i, r in enumerate(rows)]
    manifest = write_manifest(named, tmp_path / "m.csv")
    base = tiny(tmp_path / "base", "wav2vec2")
    config = load_train_config({"model": {"base": str(base)}, "data": {"train": str(manifest)}, "device": "cuda:1"})
    with pytest.raises(UsageError, match="a/b, a b would be written to one folder"):
        plan_jobs(config, each="domain")
    jobs = plan_jobs(config, each="speaker", joint=True)
    assert [j.name for j in jobs] == ["s0", "s1", "s2", "joint"]
    assert {j.config.device for j in jobs} == {"cuda"}


def launched(arguments, cwd):
    """As `accelerate launch` and torchrun start two processes."""
    own = ["--standalone", "--nproc_per_node", "2", "--log-dir", str(cwd / "logs")]  # else it leaves a folder behind
    command = [sys.executable, "-m", "torch.distributed.run", *own, "-m", "chorus"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def forked(arguments, cwd):
    """The same without the launcher: two processes that are told of each other as it tells them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}

    def start(rank):
        told = {**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        return commands.chorus(*arguments, cwd=cwd, env=told)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(start, range(2))
    assert second.returncode == 0, second.stderr
    assert second.stdout == ""
    return subprocess.CompletedProcess([], first.returncode, first.stdout, first.stderr + second.stderr)


@pytest.mark.parametrize(
    ("kind", "both"),
    [([], launched), (["adapter.rank=2", "adapter.type=pissa"], forked)], ids=["full", "pissa"],
)  # fmt: skip
def test_two_processes_share_the_rows(campaign, kind, both):
    """On two GPUs, or here on two cores: one result, one voice."""
    done = both(["train", "c.yaml", "device=cpu", "train.batch_size=2", *kind, "--json"], campaign)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["steps"] == 3  # ten rows, two processes, two rows each
    assert done.stderr.count("parameters learn") == 1
    name = "adapter_model.safetensors" if kind else "model.safetensors"
    assert (campaign / "artifacts" / "asr" / name).exists()
    straight = commands.chorus(
        "train", "c.yaml", "device=cpu", "train.batch_size=4", *kind, "output=one", "logs=l1", "--json", cwd=campaign
    )
    alone = json.loads(straight.stdout)
    assert alone["before"] == result["before"]  # the same rows were measured, whoever decoded them


# ---- slow: real speech ----


@pytest.mark.slow
@pytest.mark.parametrize(("way", "rate"), [("full", "3e-4"), ("lora", "3e-3"), ("dora", "3e-3")])
def test_three_ways_to_fine_tune_on_digits(tmp_path, way, rate):
    config = {
        "model": {"base": str(BASE)},
        "data": {
            "train": {"manifest": str(MANIFEST), "where": {"speaker": ["george", "jackson", "nicolas"]}},
            "language": "en",
        },
        "train": {"epochs": 10, "batch_size": 16, "learning_rate": float(rate), "window_s": [3, 5]},
        "augment": {"speed": [0.85, 1.18], "shift_s": 0.25, "noise": 0.7, "mask_features": 2, "mask_times": 1},
        "dev": {"window_s": 5, "max_new_tokens": 12},
        "output": str(tmp_path / "out"),
        "logs": str(tmp_path / "logs"),
    }
    if way != "full":
        config["adapter"] = {"type": way, "rank": 16}
    result = train(load_train_config(config))
    print(f"{way}: dev word error rate {result.before:.1f} -> {result.best:.1f} percent")
    assert result.best < result.before - 10


@pytest.mark.slow
def test_kills_at_random_steps_do_not_change_the_losses(tmp_path):
    source = {"manifest": str(MANIFEST), "where": {"speaker": "george"}}
    config = {
        "model": {"base": str(BASE)},
        "data": {"train": source, "language": "en"},
        "train": {"epochs": 4, "batch_size": 16, "learning_rate": 3e-4, "window_s": 3, "log_steps": 1},
        "dev": {"every_steps": 5, "limit": 10, "max_new_tokens": 8},
        "augment": {"speed": [0.9, 1.1]},
    }
    (tmp_path / "c.yaml").write_text(json.dumps(config))
    straight = commands.chorus("train", "c.yaml", "name=straight", "-q", cwd=tmp_path)
    assert straight.returncode == 0, straight.stderr
    kills, numbers = 0, random.Random(3)
    while True:
        with subprocess.Popen(
            [sys.executable, "-m", "chorus", "train", "c.yaml", "name=killed", "-q"], cwd=tmp_path,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        ) as child:  # fmt: skip
            if kills < 4:
                wait_for_a_step(tmp_path / "runs" / "asr" / "killed", child, numbers.uniform(0.5, 3))
            if kills < 4 and child.poll() is None:
                child.send_signal(signal.SIGKILL)
                child.wait()
                kills += 1
                continue
            _, error = child.communicate()
            assert child.returncode == 0, error
            break
    assert kills >= 2
    assert history(tmp_path / "runs" / "asr" / "killed") == history(tmp_path / "runs" / "asr" / "straight")


def wait_for_a_step(logs, child, seconds):
    """Until a checkpoint is there, and then a little."""
    known = set(logs.glob("checkpoint-*"))
    while child.poll() is None and set(logs.glob("checkpoint-*")) == known:
        time.sleep(0.05)
    time.sleep(seconds)
