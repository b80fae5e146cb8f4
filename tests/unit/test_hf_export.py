"""A model directory in another type or in shards: values held against torch's cast, files against the merge's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import chorus
from adapters import make_adapters
from chorus.checkpoints.lineage import lineage_in
from chorus.errors import CheckpointError, OutputError, UsageError
from chorus.verify.ready import ready
from models import copy_model, files_of, load_all, write_recipe
from sounds import BASE

TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def front_of(place: Path) -> dict:
    return yaml.safe_load((place / "README.md").read_text().split("---\n")[1])


def test_every_type_is_torch_s_cast_of_every_tensor_from_one_read(whisper, tmp_path):
    made = chorus.export(whisper.base, tmp_path / "all", "hf", types=["own", *TYPES]).places
    source = load_all(whisper.base)
    assert list(made) == ["own", *TYPES]
    for kind, place in made.items():
        found = load_all(place)
        assert found.keys() == source.keys()
        for name, value in source.items():
            wanted = value if kind == "own" else value.to(TYPES[kind])
            assert found[name].dtype == wanted.dtype
            assert torch.equal(found[name], wanted), name
        config = json.loads((place / "config.json").read_text())
        assert config["dtype"] == ("float32" if kind == "own" else kind)
        assert "torch_dtype" not in config


def test_its_own_type_is_its_own_bytes(tmp_path):
    place = chorus.export(BASE, tmp_path / "base", "hf").places["own"]
    assert load_all(place).keys() == load_all(BASE).keys()
    assert all(torch.equal(v, load_all(BASE)[n]) and v.dtype == torch.float16 for n, v in load_all(place).items())


def test_shards_with_an_index_that_transformers_loads(tmp_path):
    settings = chorus.ExportOptions(max_shard_bytes=400_000)
    place = chorus.export(BASE, tmp_path / "base", "hf", settings=settings).places["own"]
    index = json.loads((place / "model.safetensors.index.json").read_text())
    files = sorted(p.name for p in place.glob("*.safetensors"))
    assert len(files) >= 2
    assert sorted(set(index["weight_map"].values())) == files
    assert index["metadata"]["total_size"] == sum(v.nbytes for v in load_all(BASE).values())
    from transformers import WhisperForConditionalGeneration

    model, told = WhisperForConditionalGeneration.from_pretrained(place, output_loading_info=True)
    assert not any(told.values())
    assert torch.equal(model.proj_out.weight, load_all(BASE)["model.decoder.embed_tokens.weight"])


def test_old_and_new_side_files_and_whole_settings(tmp_path):
    source = Path(shutil.copytree(BASE, tmp_path / "source"))
    (source / "generation_config.json").unlink()
    place = chorus.export(source, tmp_path / "made", "hf", types="float32").places["float32"]
    names = {p.name for p in place.iterdir()}
    assert names >= {
        "tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json",
        "preprocessor_config.json", "config.json", "generation_config.json", "README.md", "chorus.json",
    }  # fmt: skip
    generation = json.loads((place / "generation_config.json").read_text())
    assert (len(generation["lang_to_id"]), generation["no_timestamps_token_id"]) == (99, 50363)
    assert generation["lang_to_id"]["<|pt|>"] == 50267


def test_a_recipe_s_export_is_the_merge_s_weights_config_and_settings(whisper, tmp_path):
    recipe = write_recipe(tmp_path / "soup.yml", whisper.recipe("linear"))
    chorus.merge(recipe, tmp_path / "merged")
    place = chorus.export(recipe, tmp_path / "made", "hf").places["own"]
    one, other = files_of(tmp_path / "merged"), files_of(place)
    assert one.keys() == other.keys()
    same = {name for name in one if one[name] == other[name]}
    assert same == set(one) - {"README.md", "chorus.json"}
    assert json.loads(other["chorus.json"])["recipe"]["merge_method"] == "linear"
    assert front_of(place)["library_name"] == "transformers"


def test_an_adapter_alone_is_put_on_the_base_that_it_names(tmp_path):
    base, (adapter, *_) = make_adapters(tmp_path / "a", "qwen2", 1)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    place = chorus.export(adapter, tmp_path / "made", "hf").places["own"]
    chorus.apply(base, adapter, tmp_path / "applied")
    assert (place / "model.safetensors").read_bytes() == (tmp_path / "applied" / "model.safetensors").read_bytes()


def test_the_card_keeps_what_the_model_s_own_says(tmp_path):
    source = Path(shutil.copytree(BASE, tmp_path / "mine"))
    (source / "README.md").write_text(
        "---\nlicense: mit\nbase_model: openai/whisper-tiny\nbase_model_relation: finetune\nlanguage: pt\n"
        "tags:\n- medical\ndatasets:\n- a/b\n---\n# Mine\n\n![curve](curve.png)\n\nHears doctors.\n"
    )
    place = chorus.export(source, tmp_path / "half", "hf", types="bfloat16").places["bfloat16"]
    assert front_of(place) == {
        "base_model": "openai/whisper-tiny", "base_model_relation": "finetune", "license": "mit", "language": ["pt"],
        "library_name": "transformers", "pipeline_tag": "automatic-speech-recognition", "datasets": ["a/b"],
        "tags": ["medical", "chorus"],
    }  # fmt: skip
    text = (place / "README.md").read_text()
    assert "mine in bfloat16" in text
    assert "\n## Mine\n" in text
    assert "Hears doctors." in text
    assert "curve.png" not in text
    assert str(tmp_path) not in text + (place / "chorus.json").read_text()


def test_what_a_model_has_learnt_from_goes_with_it(tmp_path):
    source = Path(shutil.copytree(BASE, tmp_path / "mine"))
    (source / "chorus.json").write_text(json.dumps({"trained_on": {"domain": ["radio"]}}))
    once = chorus.export(source, tmp_path / "once", "hf").places["own"]
    twice = chorus.export(once, tmp_path / "twice", "hf").places["own"]
    assert lineage_in(json.loads((twice / "chorus.json").read_text())) == {"domain": ["radio"]}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (65_520.0, r"values beyond float16 \(to 6.55e\+04\)"),
        (float("nan"), "NaN or infinity"),
        (-float("inf"), "NaN or infinity"),
    ],
)
def test_what_float16_cannot_hold_is_refused_and_nothing_is_left(whisper, tmp_path, value, told):
    place = copy_model(whisper.base, tmp_path / "large")
    tensors = load_file(place / "model.safetensors")
    tensors["model.encoder.layers.0.fc1.bias"][3] = value
    save_file(tensors, place / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"encoder\.layers\.0\.fc1\.bias: holds {told}"):
        chorus.export(place, tmp_path / "made", "hf", types="float16")
    assert [p.name for p in tmp_path.iterdir()] == ["large"]
    if value == 65_520.0:
        chorus.export(place, tmp_path / "made", "hf", types="bfloat16")


def test_refused_words_and_places(tmp_path):
    with pytest.raises(UsageError, match='did you mean "float16"'):
        chorus.export(BASE, tmp_path / "x", "hf", types="f16")
    with pytest.raises(UsageError, match=r"--trim-vocab \(trim_vocabulary\): without a meaning for hf"):
        chorus.export(BASE, tmp_path / "x", "hf", settings=chorus.ExportOptions(trim_vocabulary=True))
    mine = Path(shutil.copytree(BASE, tmp_path / "mine"))
    with pytest.raises(UsageError, match="is one of the inputs"):
        chorus.export(mine, mine, "hf", overwrite=True)
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match=r"no result of Chorus"):
        chorus.export(BASE, tmp_path / "others", "hf", overwrite=True)
    assert (tmp_path / "others" / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize("dtype", [torch.float64, *TYPES.values()])
def test_what_is_no_number_goes_as_it_is_and_is_told(whisper, tmp_path, dtype):
    place, name = copy_model(whisper.base, tmp_path / "broken"), "model.encoder.layers.0.fc1.bias"
    tensors = {key: value.to(dtype) for key, value in load_file(place / "model.safetensors").items()}
    tensors[name][3] = float("nan")
    save_file(tensors, place / "model.safetensors", {"format": "pt"})
    done = chorus.export(place, tmp_path / "made", "hf")
    assert any(f"NaN or infinity in {name}:" in line for line in done.warnings)
    assert json.loads((tmp_path / "made/chorus.json").read_text())["not_finite"] == [name]
    assert load_all(tmp_path / "made")[name].isnan().nonzero().tolist() == [[3]]


def with_tokenizer(source: Path, place: Path, more: dict[str, int]) -> Path:
    """A model whose tokenizer has more tokens, or fewer where none are given."""
    shutil.copytree(source, place)
    document = json.loads((place / "tokenizer.json").read_text())
    if not more:
        dropped = max(document["added_tokens"], key=lambda one: one["id"])
        document["added_tokens"].remove(dropped)
        document["model"]["vocab"].pop(dropped["content"], None)
    document["added_tokens"] += [{"id": i, "content": name, "special": True} for name, i in more.items()]
    (place / "tokenizer.json").write_text(json.dumps(document))
    return place


def test_a_token_without_a_row_in_the_embedding_is_refused_and_told_before(tmp_path):
    rows = load_all(BASE)["model.decoder.embed_tokens.weight"].shape[0]
    other = with_tokenizer(BASE, tmp_path / "other", {"<|one|>": rows, "<|two|>": rows + 1})
    found = ready(other, "hf")
    assert not found.ok
    with pytest.raises(CheckpointError) as refused:
        chorus.export(other, tmp_path / "made", "hf")
    told = f"{refused.value.message} {refused.value.hint}"
    assert f"no row in the embedding of {rows:,} for 2 of its tokens (<|one|> is {rows}" in told
    assert "give --tokenizer DIR" in told
    assert not (tmp_path / "made").exists()
    assert chorus.export(other, tmp_path / "made", "hf", tokenizer=BASE).places


def test_rows_without_a_token_are_padding(tmp_path):
    fewer = with_tokenizer(BASE, tmp_path / "fewer", {})
    assert ready(fewer, "hf").ok
    assert chorus.export(fewer, tmp_path / "made", "hf").places
