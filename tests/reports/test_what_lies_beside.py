"""The files beside each other in a model's directory: which are read, which are carried, which are made."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch

import chorus
from chorus.errors import PlanError
from models import Family, copy_model, files_of, load_all
from sounds import BASE

BESIDE = (
    "tekken.json", "spk_dict.pt", "spiece.model", "source.spm", "target.spm", "qwen.tiktoken", "modeling_x.py",
    "alphabet.json", "language_model/5gram.bin", "additional_chat_templates/tool.jinja", "LICENSE", "NOTICE",
)  # fmt: skip


def linear(*places, **keys):
    models = [{"model": str(place), "parameters": {"weight": 1.0}} for place in places]
    return {"merge_method": "linear", "models": models, **keys}


@pytest.mark.reported("stale-index")
@pytest.mark.parametrize("shards", [True, False], ids=["its shards too", "the index alone"])
def test_a_whole_file_goes_before_an_index_that_was_left_behind(tmp_path, qwen: Family, out, shards):
    """Saved in shards, then again as one file: transformers reads the new weights, and so must a merge."""
    old, new = qwen.tuned[1], qwen.tuned[0]
    assert len(list(old.glob("*.safetensors"))) > 1
    shutil.copytree(old, tmp_path / "m")
    for shard in [] if shards else (tmp_path / "m").glob("*.safetensors"):
        shard.unlink()
    shutil.copy(new / "model.safetensors", tmp_path / "m")
    plan = chorus.plan(linear(tmp_path / "m"))
    (warning,) = [w for w in plan.warnings if "index" in w]
    assert "model.safetensors is read, as transformers does" in warning
    chorus.merge(plan, out)
    expected, found = load_all(new), load_all(out)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.reported("side-files-in-no-list")
def test_files_that_are_in_no_list_go_with_the_model(tmp_path, qwen: Family, out):
    """Voxtral's only tokenizer, a wav2vec2's language model, an Omni's speakers, code, licences."""
    a = copy_model(qwen.base, tmp_path / "a", auto_map={"AutoModelForCausalLM": "modeling_x.X"})
    for name in BESIDE:
        (a / name).parent.mkdir(exist_ok=True)
        (a / name).write_text(f"of {name}")
    (a / "optimizer.pt").write_text("x")
    plan = chorus.plan(linear(qwen.tuned[0], base_model=str(a), merge_method="task_arithmetic"))
    chorus.merge(plan, out)
    assert {name for name in files_of(out) if (a / name).exists()} >= set(BESIDE)
    assert all((out / name).read_bytes() == (a / name).read_bytes() for name in BESIDE)
    assert plan.beside.left == {"of a training": ["optimizer.pt"]}
    assert any("modeling_x.py" in w for w in plan.warnings)


@pytest.mark.reported("old-processor-form")
def test_the_new_processor_form_is_written_where_the_source_had_it(tmp_path, out):
    """transformers 4.46 to 4.55 pass what the new file holds to the processor twice, and fail."""
    old = shutil.copytree(BASE, tmp_path / "old")
    assert (old / "preprocessor_config.json").exists()
    assert not (old / "processor_config.json").exists()
    chorus.merge(linear(old), out)
    settings = json.loads((out / "preprocessor_config.json").read_text())
    assert not (out / "processor_config.json").exists()
    new = shutil.copytree(BASE, tmp_path / "new")
    os.remove(new / "preprocessor_config.json")
    nested = {"feature_extractor": settings, "processor_class": "WhisperProcessor"}
    (new / "processor_config.json").write_text(json.dumps(nested))
    chorus.merge(linear(new), tmp_path / "out-new")
    assert json.loads((tmp_path / "out-new" / "processor_config.json").read_text()) == nested
    made = json.loads((tmp_path / "out-new" / "preprocessor_config.json").read_text())
    assert made["feature_size"] == settings["feature_size"]


def early(place, **config):
    """A fine-tune as they were in early 2023: without generation_config.json, a language forced in config.json."""
    shutil.copytree(BASE, place)
    os.remove(place / "generation_config.json")
    settings = json.loads((place / "config.json").read_text())
    forced = [[1, 50259], [2, 50359], [3, 50363]]
    settings |= {"forced_decoder_ids": forced, "suppress_tokens": [], "max_length": 448, **config}
    (place / "config.json").write_text(json.dumps(settings))
    return place


@pytest.mark.reported("no-generation-config")
def test_early_fine_tunes_get_generation_settings_as_training_makes_them(tmp_path, out):
    from transformers import WhisperForConditionalGeneration, WhisperTokenizerFast

    from chorus.models.whisper import complete_generation, languages_of

    ta, te = early(tmp_path / "ta"), early(tmp_path / "te", suppress_tokens=[3])
    plan = chorus.plan(linear(ta, te))
    chorus.merge(plan, out)
    (warning,) = [w for w in plan.warnings if "generation" in w]
    assert warning == "ta has no generation_config.json: the result's is made of its config and tokenizer"
    assert plan.generation_differences == [
        "te (no generation_config.json) has suppress_tokens [3], not []; the result has ta's"
    ]
    assert "forced_decoder_ids" not in (out / "config.json").read_text() + (out / "generation_config.json").read_text()
    made = json.loads((out / "generation_config.json").read_text())
    trained, tokenizer = WhisperForConditionalGeneration.from_pretrained(ta), WhisperTokenizerFast.from_pretrained(ta)
    complete_generation(trained, tokenizer, languages_of(tokenizer))
    expected = trained.generation_config.to_diff_dict()
    assert {key: expected[key] for key in made} == made
    assert len(made["lang_to_id"]) == 99
    model = WhisperForConditionalGeneration.from_pretrained(out, dtype=torch.float32)
    for asked in ({"language": "pt"}, {"return_timestamps": True}):
        assert len(model.generate(torch.zeros(1, 80, 3000), max_new_tokens=2, **asked))


def test_a_base_with_settings_gives_them_and_each_model_is_one_line(tmp_path):
    tuned = [early(tmp_path / name) for name in ("ta", "te")]
    plan = chorus.plan(linear(*tuned, base_model=str(BASE), merge_method="task_arithmetic"))
    assert [line.split()[0] for line in plan.generation_differences] == ["ta", "te"]
    assert len(plan.variants[0].generation["lang_to_id"]) == 99
    plan = chorus.plan(linear(tuned[0], BASE))
    assert plan.variants[0].generation["alignment_heads"]
    assert any("ta has no generation_config.json: the result takes base's" in w for w in plan.warnings)


@pytest.mark.reported("other-tokenizer-of-equal-size")
@pytest.mark.parametrize("change", ["two change places", "one is renamed", "one more"])
def test_tokenizers_of_equal_size_are_compared_by_their_tokens(tmp_path, change):
    a, b = (shutil.copytree(BASE, tmp_path / name) for name in "ab")
    tokenizer = json.loads((b / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    first, second = list(words)[300], list(words)[400]
    if change == "two change places":
        words[first], words[second] = words[second], words[first]
    for added in tokenizer["added_tokens"]:
        if change == "one is renamed":
            added["content"] = added["content"].replace("<|haw|>", "<|gsw|>")
    (b / "tokenizer.json").write_text(json.dumps(tokenizer))
    if change == "one more":
        ours = json.loads((a / "tokenizer.json").read_text())
        ours["added_tokens"] = [t for t in ours["added_tokens"] if t["content"] != "<|haw|>"]
        (a / "tokenizer.json").write_text(json.dumps(ours))
    if change == "two change places":
        with pytest.raises(PlanError, match="2 token ids of b mean other tokens than in a: 300 is"):
            chorus.plan(linear(a, b))
        return
    (warning,) = [w for w in chorus.plan(linear(a, b)).warnings if "token" in w]
    told = (
        "1 token ids have another name in b than in a" if change == "one is renamed" else "1 tokens that the result's"
    )
    assert told in warning
    assert "<|haw|>" in warning
