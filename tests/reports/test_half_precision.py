"""Every kind of model under every kind of adapter, kept in half precision: trained, measured, and written."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import chorus
from chorus.errors import ChorusError, MissingPackageError
from chorus.train.environment import OPTIMIZERS, need_optimizer
from chorus.train.layers import load_train_config
from chorus.train.run import Note
from sounds import BASE, corpus, tiny

KINDS = ("whisper", "wav2vec2", "wav2vec2_bert", "qwen2_audio", "omni", "qwen3_asr", "voxtral", "qwen2")
ADAPTERS = ("lora", "rslora", "dora", "pissa", "olora", "eva")
HALVES = ("bfloat16", "float16")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    place = tmp_path_factory.mktemp("bases")
    return {kind: BASE if kind == "whisper" else tiny(place / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("corpus"), 3, seconds=0.5)[0]


def trained(
    base: Path,
    manifest: Path,
    folder: Path,
    dtype: str,
    adapter: str = "",
    note: Note = lambda text: None,
    **more: object,
):
    document = {
        "model": {"base": str(base), "dtype": dtype}, "data": {"train": str(manifest)}, "device": "cpu",
        "train": {"steps": 1, "window_s": 1, "batch_size": 2, **more}, "dev": {"max_new_tokens": 2},
        "output": str(folder / "out"), "logs": str(folder / "logs"),
        **({"task": "lm"} if base.name == "qwen2" else {}),
        **({"adapter": {"type": adapter, "rank": 2, "eva_batches": 1}} if adapter else {}),
    }  # fmt: skip
    return chorus.train(load_train_config(document), note=note)


@pytest.mark.reported("half-precision")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("adapter", ["", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_trained_and_measured(kind, adapter, dtype, bases, manifest, tmp_path):
    """The measurement has no autocast: features are given in the type that the weights have, there and in training."""
    done = trained(bases[kind], manifest, tmp_path, dtype, adapter)
    assert done.steps == 1
    assert done.best is not None
    assert math.isfinite(done.best)


@pytest.mark.reported("half-precision")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("adapter", ADAPTERS[1:])
def test_every_adapter_is_trained_and_measured(adapter, dtype, bases, manifest, tmp_path):
    done = trained(bases["whisper"], manifest, tmp_path, dtype, adapter)
    assert done.best is not None
    assert math.isfinite(done.best)
    factors = chorus.open_model(f"{bases['whisper']}+{done.directory}").checkpoint
    read = factors["model.encoder.layers.0.self_attn.q_proj.weight"].read()
    assert torch.isfinite(read.float()).all()


@pytest.mark.reported("half-precision")
def test_autocast_over_a_small_base_too(bases, manifest, tmp_path):
    assert trained(bases["whisper"], manifest, tmp_path, "bfloat16", "lora", precision="bfloat16").steps == 1


@pytest.mark.reported("half-precision")
def test_an_optimizer_whose_package_is_missing_is_told_before_any_work(bases, manifest, tmp_path, monkeypatch):
    from transformers.training_args import OptimizerNames

    monkeypatch.setattr("chorus.train.environment.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="adamw_bnb_8bit needs bitsandbytes, which is not installed") as error:
        trained(bases["whisper"], manifest, tmp_path, "float32", optimizer="adamw_bnb_8bit")
    assert (error.value.exit_code, error.value.hint) == (3, "pip install bitsandbytes")
    assert not list(tmp_path.iterdir())
    own = {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"}
    for name in (one.value for one in OptimizerNames):
        if name in own:
            need_optimizer(name)
        else:
            with pytest.raises(MissingPackageError):
                need_optimizer(name)
    assert all(any(one.value.startswith(b) for one in OptimizerNames) for b in OPTIMIZERS)


@pytest.mark.reported("half-precision")
@pytest.mark.parametrize(
    ("dtype", "adapter", "told"), [("bfloat16", "", True), ("bfloat16", "lora", False), ("float32", "", False)]
)
def test_steps_that_are_rounded_away_are_told(dtype, adapter, told, bases, manifest, tmp_path):
    """A full fine-tune in bfloat16 ends where it began: the same dev loss at every measurement."""
    notes: list[str] = []
    trained(bases["whisper"], manifest, tmp_path, dtype, adapter, note=notes.append)
    assert any("rounded away" in note for note in notes) == told


@pytest.mark.reported("half-precision")
def test_weights_that_are_no_numbers_are_not_written(bases, manifest, tmp_path, monkeypatch):
    """The loss of a step is that of the weights before it: a single step's may be finite, and all that it left not."""
    import transformers

    def spoilt(self, *arguments, **more):
        result = plain(self, *arguments, **more)
        with torch.no_grad():
            next(p for p in self.model.parameters() if p.requires_grad)[0] = math.nan
        return result

    plain = transformers.Trainer.train
    monkeypatch.setattr(transformers.Trainer, "train", spoilt)
    with pytest.raises(ChorusError, match="not finite after the training"):
        trained(bases["whisper"], manifest, tmp_path, "float32", "lora")
    assert not (tmp_path / "out").exists()
