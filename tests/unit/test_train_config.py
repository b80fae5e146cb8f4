"""Configurations: layers, overrides, other tools' keys, and every kind of mistake named with a way out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chorus.errors import RecipeError, UsageError
from chorus.settings import leaves
from chorus.train.config import TrainConfig
from chorus.train.guide_keys import TABLE
from chorus.train.layers import as_yaml, lay_over, load_train_config, parse_override

LEAST = {"model": {"base": "openai/whisper-small"}, "data": {"train": "m.csv"}}


def problems(document, *overrides):
    with pytest.raises((RecipeError, UsageError)) as error:
        load_train_config(document, overrides=overrides)
    return error.value.message


def test_the_least_that_is_needed():
    config = load_train_config(LEAST)
    assert config.data.train[0].manifest == "m.csv"
    assert (config.output_dir, config.logs_dir) == ("artifacts/asr", "runs/asr")
    assert config.learning_rate == 1e-5
    assert config.metric == "wer"
    assert load_train_config(LEAST, overrides=["adapter.type=dora"]).learning_rate == 1e-4


def test_what_is_printed_can_be_read_again(tmp_path):
    config = load_train_config(LEAST, overrides=["adapter.rank=4", "augment.speed=[0.9, 1.1]", "name=x"])
    (tmp_path / "c.yaml").write_text(as_yaml(config))
    assert load_train_config(tmp_path / "c.yaml") == config


def test_later_layers_lie_over_earlier_ones(tmp_path):
    (tmp_path / "base.yaml").write_text("model: {base: a}\ntrain: {epochs: 3, batch_size: 4}\nadapter: {rank: 8}\n")
    (tmp_path / "asr.yaml").write_text("data: {train: m.csv}\ntrain: {epochs: 5}\nadapter: null\n")
    (tmp_path / "last.json").write_text('{"train": {"learning_rate": 3e-5}}')
    config = load_train_config(tmp_path / "base.yaml", tmp_path / "asr.yaml", tmp_path / "last.json")
    assert (config.train.epochs, config.train.batch_size, config.train.learning_rate) == (5, 4, 3e-5)
    assert config.adapter is None
    by_task = load_train_config(tmp_path / "asr.yaml", task="asr")
    assert (by_task.model.base, by_task.train.batch_size) == ("a", 4)
    with pytest.raises(RecipeError):
        load_train_config(tmp_path / "asr.yaml")


def test_normalizer_is_normaliser_in_files_and_on_the_command_line():
    least = {"model": {"base": "m"}, "data": {"train": "m.csv"}}
    assert load_train_config({**least, "dev": {"normalizer": "marks"}}).dev.normaliser == "marks"
    assert (
        load_train_config({**least, "dev": {"normaliser": "raw"}}, overrides=["dev.normalizer=basic"]).dev.normaliser
        == "basic"
    )


def test_overrides_come_last_and_are_typed():
    config = load_train_config(
        LEAST,
        overrides=["train.learning_rate=1e-5", "train.window_s=5", "adapter.rank_pattern.q_proj=4", "data.dev=d.csv"],
    )
    assert config.train.learning_rate == 1e-5
    assert config.train.window_s == [5]
    assert config.adapter.rank_pattern == {"q_proj": 4}
    assert config.data.dev[0].manifest == "d.csv"
    assert parse_override("name=1e") == {"name": "1e"}
    assert lay_over({"a": {"b": 1, "c": 2}}, {"a": {"b": None}}) == {"a": {"c": 2}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trian": {}}, 'trian: unknown key; did you mean "train"?'),
        ({"train": {"learning_rat": 1}}, 'train.learning_rat: unknown key; did you mean "learning_rate"?'),
        ({"train": {"num_train_epochs": 3}}, 'unknown key; here it is "train.epochs"'),
        ({"train": {"epochs": "many"}}, "train.epochs: input should be a valid number"),
        ({"train": {"window_s": [3, 31]}}, "seconds between 1 and 30"),
        ({"adapter": {"type": "lroa"}}, "adapter.type: input should be 'lora', 'rslora', 'dora'"),
        ({"adapter": {"type": "pissa", "init": "gaussian"}}, "are two ways to start; keep one"),
        ({"adapter": {"type": "rslora", "rank_pattern": {"q": 1}}}, "do not go with rslora"),
        ({"adapter": {"target_modules": ["q"]}}, 'here it is "adapter.modules"'),
        ({"adapter": {"runtime": {"ephemeral": True}}}, 'unknown key; did you mean "ephemeral_gpu_offload"'),
        ({"augment": {"speed": [1.2, 0.8]}}, "1.2 is more than 0.8"),
        ({"augment": {"speed": [0.1, 0.8]}}, "factors between 0.3 and 3"),
        ({"data": {"train": {"manifst": "m.csv"}}}, 'data.train[0].manifst: unknown key; did you mean "manifest"?'),
        ({"data": {"train": {"manifest": "m", "dataset": "d"}}}, "exactly one of manifest and dataset"),
        ({"data": {"train": {"manifest": "m", "streaming": True}}}, "only a dataset can be streamed"),
        ({"data": {"train": []}}, "data.train: list should have at least 1 item"),
        ({"device": "gpu"}, 'device: unknown device "gpu"; known: auto, cpu, cuda'),
        ({"name": "../x"}, "a folder's name"),
        ({"version": 0, "optimizer": "x"}, "written for an older version of this file (0; this Chorus reads 1)"),
        ({"version": 2}, "written for a newer version"),
        ({"model": {}}, "model.base: missing"),
    ],
)
def test_mistakes_are_named(change, message):
    assert message in problems({**LEAST, **change})


def test_all_mistakes_at_once():
    told = problems({"model": {"bse": "x"}, "data": {}, "train": {"epochs": -1}})
    assert "4 problems" in told


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr=3", 'unknown key "train.lr"; here it is "train.learning_rate"'),
        ("train.learningrate=3", 'did you mean "train.learning_rate"'),
        ("train.epochs", "write KEY=VALUE"),
    ],
)
def test_wrong_overrides_are_named(override, message):
    assert message in problems(LEAST, override)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(RecipeError, match="no such file"):
        load_train_config(tmp_path / "none.yaml")
    (tmp_path / "l.yaml").write_text("- 1\n")
    with pytest.raises(RecipeError, match="one map of settings"):
        load_train_config(tmp_path / "l.yaml")
    (tmp_path / "t.yaml").write_text("model: {base: a}\nmodel: {base: b}\n")
    with pytest.raises(RecipeError, match="stands twice"):
        load_train_config(tmp_path / "t.yaml")


GUIDE = {
    "base_model": "openai/whisper-large-v3-turbo",
    "train_csv": "train.csv",
    "val_csv": "val.csv",
    "outdir": "out",
    "language": "en",
    "lora_r": 32,
    "lora_target_modules": ["q_proj", "v_proj", "o_proj"],
    "lora_rank_pattern": {"q_proj": 8},
    "use_dora": True,
    "lora_init": "gaussian",
    "freeze_encoder": True,
    "merge_lora": True,
    "fp16": False,
    "bf16": True,
    "modules_to_save": "embed_tokens,layer_norm",
}


def test_the_flat_keys_of_the_whisper_cpp_guide(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(GUIDE))
    config = load_train_config(tmp_path / "config.json")
    assert config.model.base == "openai/whisper-large-v3-turbo"
    assert (config.data.train[0].manifest, config.data.dev[0].manifest, config.output) == (
        "train.csv",
        "val.csv",
        "out",
    )
    assert config.adapter.type == "dora"
    assert config.adapter.init == "gaussian"
    assert (config.adapter.rank, config.adapter.alpha, config.adapter.dropout) == (32, 32, 0.05)
    assert config.adapter.modules == ["q_proj", "v_proj", "out_proj"]  # the guide's o_proj is no name of Whisper's
    assert config.adapter.save_modules == ["embed_tokens", "layer_norm"]
    assert config.adapter.merge
    assert config.model.freeze == ["encoder"]
    assert config.train.precision == "bfloat16"
    assert (config.train.epochs, config.train.learning_rate, config.train.warmup) == (5, 5e-5, 0.08)


@pytest.mark.parametrize(
    ("start", "kind", "init"), [("pissa", "pissa", "default"), ("eva", "eva", "default"), (True, "lora", "default")]
)
def test_the_guides_starts(start, kind, init):
    document = {k: v for k, v in GUIDE.items() if k != "use_dora"} | {"lora_init": start}
    adapter = load_train_config(document).adapter
    assert (adapter.type, adapter.init) == (kind, init)


def test_the_guides_mistakes():
    assert 'lora_rr: unknown key; did you mean "lora_r"' in problems({**GUIDE, "lora_rr": 3})
    assert "lora_init: 'loftq' is not known here" in problems({**GUIDE, "lora_init": "loftq"})


def test_every_key_of_the_guide_leads_to_a_key_of_ours():
    ours = set(leaves(TrainConfig))
    for key, target in TABLE.items():
        for one in target.split(" or "):
            place = one.split(":")[0]
            assert place in ours or any(known.startswith(f"{place}.") for known in ours), key
    assert len(TABLE) == 29


def test_every_key_is_in_the_docs():
    from sounds import ROOT

    page = (ROOT / "docs" / "train.md").read_text()
    keys = list(leaves(TrainConfig))
    assert len(keys) > 70
    for key in keys:
        assert f"`{key.rsplit('.', 1)[-1]}`" in page, key


def test_the_guides_page_shows_the_table():
    from sounds import ROOT

    page = (ROOT / "docs" / "whisper-finetuning.md").read_text()
    shown = [
        f"| `{key}` | " + " or ".join(f"`{one}`" for one in ours.split(" or ")) + " |" for key, ours in TABLE.items()
    ]
    assert "\n".join(shown) in page


def test_what_a_training_is_made_from_is_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("base", "sounds", "table"):
        (tmp_path / name).mkdir()
    (tmp_path / "m.csv").touch()
    rows = [{"manifest": "m.csv", "audio_dir": "sounds"}, {"dataset": "table"}, {"dataset": "org/on-the-hub"}]
    config = load_train_config({"model": {"base": "base", "adapter": "~nosuchuser/a"}, "data": {"train": rows}})
    assert config.places == [Path(name) for name in ("base", "m.csv", "sounds", "table")]
