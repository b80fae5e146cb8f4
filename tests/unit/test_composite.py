"""A thinker and the whole Qwen2.5-Omni: taken out, merged in either spelling, put back, refused where it is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import chorus
from chorus.checkpoints.composite import outside, part_of
from chorus.cli.main import run
from chorus.errors import CheckpointError
from models import load_all, write_model, write_recipe
from sounds import corpus, tiny, whole_omni

WHOLE = transformers.Qwen2_5OmniForConditionalGeneration
THINKER = transformers.Qwen2_5OmniThinkerForConditionalGeneration
GARBAGE = b"\x80\x04no pickle that anybody should open"


@pytest.fixture(scope="module")
def omni(tmp_path_factory):
    """The whole; its speakers are no pickle that could be opened."""
    place = whole_omni(tmp_path_factory.mktemp("omni") / "omni")
    (place / "spk_dict.pt").write_bytes(GARBAGE)
    return place


@pytest.fixture(scope="module")
def thinkers(tmp_path_factory):
    """Two thinkers alone: as the class writes its own, and with the prefix, as it writes one out of a whole."""
    folder = tmp_path_factory.mktemp("thinkers")
    places = [tiny(folder / f"tuned-{seed}", "omni", seed) for seed in (1, 2)]
    tensors = load_all(places[1])
    save_file({f"thinker.{k}": v for k, v in tensors.items()}, places[1] / "model.safetensors", {"format": "pt"})
    return places


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, omni):
    """A LoRA of the thinker, trained on the whole's directory."""
    place = tmp_path_factory.mktemp("adapters") / "lora"
    torch.manual_seed(3)
    targets = r".*(language_model|audio_tower)\..*(q_proj|v_proj)"
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False)
    peft.get_peft_model(THINKER.from_pretrained(omni), config).save_pretrained(place)
    return place


def plain(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("thinker."): value for name, value in tensors.items()}


def of_thinker(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return plain({name: value for name, value in tensors.items() if name.startswith("thinker.")})


def loads_whole(place: Path) -> dict[str, torch.Tensor]:
    """The weights as the full class has them; nothing random, nothing left."""
    garbage = (place / "spk_dict.pt").read_bytes()
    torch.save({"Chelsie": {"cond": torch.zeros(1, 192), "ref_mel": torch.zeros(1, 10, 80)}}, place / "spk_dict.pt")
    model = WHOLE.from_pretrained(place)
    (place / "spk_dict.pt").write_bytes(garbage)
    assert model.has_talker
    assert list(model.speaker_map) == ["Chelsie"]
    return model.state_dict()


@pytest.mark.parametrize("number", [0, 1])
def test_a_thinker_is_put_back_and_all_else_stays_as_it_was(tmp_path, omni, thinkers, number):
    done = chorus.export(thinkers[number], tmp_path / "out", "hf", into=omni)
    found, before = load_all(tmp_path / "out"), load_all(omni)
    assert found.keys() == before.keys()
    mine = plain(load_all(thinkers[number]))
    assert len(of_thinker(found)) == len(mine) == 73
    assert all(torch.equal(value, mine[name]) for name, value in of_thinker(found).items())
    others = [name for name in before if not name.startswith("thinker.")]
    assert len(others) == 187
    assert all(torch.equal(found[name], before[name]) for name in others)
    assert (tmp_path / "out" / "spk_dict.pt").read_bytes() == GARBAGE
    assert {p.name for p in omni.iterdir()} <= {p.name for p in (tmp_path / "out").iterdir()}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {**config, "dtype": None} == {**json.loads((omni / "config.json").read_text()), "dtype": None}
    assert not [one for one in done.warnings if "licence" not in one]
    loaded, own = loads_whole(tmp_path / "out"), THINKER.from_pretrained(thinkers[number]).state_dict()
    assert all(torch.equal(loaded[f"thinker.{name}"], value) for name, value in own.items())


def test_what_was_taken_out_and_put_back_is_the_same(tmp_path, omni):
    whole = chorus.open_model(omni)
    part = part_of(whole)
    assert len(part.checkpoint) + len(outside(whole)) == len(whole.checkpoint)
    assert part.architecture == "Qwen2_5OmniThinkerForConditionalGeneration"
    assert part_of(part) is part
    chorus.export(part, tmp_path / "out", "hf", into=omni)
    found, before = load_all(tmp_path / "out"), load_all(omni)
    assert found.keys() == before.keys()
    assert all(torch.equal(found[name], before[name]) for name in before)


def test_no_speaker_is_unpickled(tmp_path, omni, thinkers, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    chorus.export(thinkers[0], tmp_path / "out", "hf", into=omni, options=chorus.OpenOptions(allow_pickle=True))
    assert (tmp_path / "out" / "spk_dict.pt").read_bytes() == GARBAGE


def test_a_hubs_own_name_for_the_class_is_as_good(tmp_path, omni, thinkers):
    hub = shutil.copytree(omni, tmp_path / "hub")
    config = json.loads((hub / "config.json").read_text())
    (hub / "config.json").write_text(json.dumps({**config, "architectures": ["Qwen2_5OmniModel"]}))
    chorus.export(thinkers[0], tmp_path / "out", "hf", into=hub)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["Qwen2_5OmniModel"]
    loads_whole(tmp_path / "out")


def test_a_merge_on_the_whole_of_thinkers_in_both_spellings_is_a_whole(tmp_path, omni, thinkers):
    models = [{"model": str(one), "parameters": {"weight": 0.3}} for one in thinkers]
    recipe = {"merge_method": "task_arithmetic", "base_model": str(omni), "models": models}
    assert "tuned-1, tuned-2: the thinker alone, all else of the result is omni's" in chorus.plan(recipe).warnings
    chorus.merge(write_recipe(tmp_path / "r.yml", recipe), tmp_path / "merged")
    found, base = load_all(tmp_path / "merged"), load_all(omni)
    tuned = [plain(load_all(one)) for one in thinkers]
    assert found.keys() == base.keys()
    for name, value in base.items():
        if not name.startswith("thinker."):
            assert torch.equal(found[name], value), name
            continue
        wanted = value + sum(0.3 * (one[name.removeprefix("thinker.")] - value) for one in tuned)
        torch.testing.assert_close(found[name], wanted, atol=1e-6, rtol=0)
    assert (tmp_path / "merged" / "spk_dict.pt").read_bytes() == GARBAGE
    loads_whole(tmp_path / "merged")


def test_a_sum_that_is_no_mean_leaves_the_voice_alone(tmp_path, omni, thinkers):
    """Of a mean of weights that do not sum to one every tensor that all have would be scaled."""
    models = [{"model": str(one), "parameters": {"weight": 1.0}} for one in (omni, *thinkers)]
    recipe = {"merge_method": "linear", "models": models, "parameters": {"normalize": False}}
    chorus.merge(recipe, tmp_path / "merged")
    found, base = load_all(tmp_path / "merged"), load_all(omni)
    norm = "model.norm.weight"
    assert torch.equal(found[f"thinker.{norm}"], 3 * base[f"thinker.{norm}"])
    assert all(torch.equal(found[name], base[name]) for name in base if not name.startswith("thinker."))


def test_a_merge_on_a_thinker_takes_the_thinker_of_a_whole(tmp_path, omni, thinkers):
    models = [{"model": str(one), "parameters": {"weight": 0.5}} for one in (omni, thinkers[1])]
    chorus.merge(
        {"merge_method": "task_arithmetic", "base_model": str(thinkers[0]), "models": models}, tmp_path / "merged"
    )
    found, base = load_all(tmp_path / "merged"), load_all(thinkers[0])
    assert found.keys() == base.keys()
    first, second = of_thinker(load_all(omni)), plain(load_all(thinkers[1]))
    for name, value in found.items():
        torch.testing.assert_close(value, 0.5 * (first[name] + second[name]), atol=1e-6, rtol=0)
    assert THINKER.from_pretrained(tmp_path / "merged", output_loading_info=True)[1]["missing_keys"] == set()


@pytest.mark.parametrize("spelled", ["as trained", "thinker.", "of transformers 4"])
def test_an_adapter_in_any_spelling_is_folded_into_the_whole(tmp_path, omni, adapter, spelled):
    lora = shutil.copytree(adapter, tmp_path / "lora")
    start, old = "base_model.model.", "model.language_model."
    renamed = {
        "as trained": lambda name: name,
        "thinker.": lambda name: f"thinker.{name}",
        "of transformers 4": lambda name: "thinker." + name.replace(old, "model.").replace("model.audio", "audio"),
    }[spelled]
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors = {f"{start}{renamed(name.removeprefix(start))}": value for name, value in tensors.items()}
    save_file(tensors, lora / "adapter_model.safetensors")
    chorus.export(f"{omni}+{lora}", tmp_path / "out", "hf", into=omni)
    found, base = load_all(tmp_path / "out"), load_all(omni)
    theirs = peft.PeftModel.from_pretrained(THINKER.from_pretrained(omni), adapter).merge_and_unload().state_dict()
    ours = loads_whole(tmp_path / "out")
    assert max(float((ours[f"thinker.{n}"] - value).abs().max()) for n, value in theirs.items()) < 1e-6
    assert sum(not torch.equal(found[name], base[name]) for name in base) == 6


def test_a_whole_with_an_adapter_hears_as_the_same_thinker_alone(tmp_path, omni, adapter):
    manifest, _ = corpus(tmp_path / "speech", 6)
    chorus.export(f"{omni}+{adapter}", tmp_path / "whole", "hf", into=omni)
    theirs = peft.PeftModel.from_pretrained(THINKER.from_pretrained(omni), adapter).merge_and_unload()
    theirs.save_pretrained(tmp_path / "alone")
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copy(omni / name, tmp_path / "alone" / name)
    decoding = chorus.Decoding(max_new_tokens=6)
    texts = []
    for place in (f"{omni}+{adapter}", tmp_path / "whole", tmp_path / "alone"):
        one = chorus.evaluate(place, manifest, tmp_path / f"r{len(texts)}", decoding=decoding)
        texts.append([row["hypothesis"] for row in one.rows])
    assert texts[0] == texts[1] == texts[2]
    assert len(texts[0]) >= 2


def test_the_difference_of_a_thinker_and_a_whole_is_that_of_the_thinkers(tmp_path, omni, thinkers):
    chorus.extract_task_vector(thinkers[1], omni, tmp_path / "vector")
    chorus.merge(
        {"merge_method": "linear", "models": [{"model": f"{omni}+{tmp_path / 'vector'}", "parameters": {"weight": 1}}]},
        tmp_path / "again",
    )
    found, wanted = of_thinker(load_all(tmp_path / "again")), plain(load_all(thinkers[1]))
    assert all(torch.allclose(found[name], value, atol=1e-6) for name, value in wanted.items())


def test_a_head_that_is_no_more_the_embedding_stays_so_in_the_whole(tmp_path):
    tied = whole_omni(tmp_path / "tied", tied=True)
    assert "thinker.lm_head.weight" not in load_all(tied)
    loose = tiny(tmp_path / "loose", "omni", 5)
    chorus.export(loose, tmp_path / "out", "hf", into=tied)
    head, embedding = (f"thinker.{one}.weight" for one in ("lm_head", "model.embed_tokens"))
    found, mine = load_all(tmp_path / "out"), load_all(loose)
    assert torch.equal(found[head], mine["lm_head.weight"])
    assert not torch.equal(found[head], found[embedding])
    model = WHOLE.from_pretrained(tmp_path / "out")
    assert torch.equal(model.thinker.lm_head.weight, mine["lm_head.weight"])


def changed(source: Path, target: Path, change) -> Path:
    """A thinker with other tensors under a config that fits them."""
    tensors, config = load_all(source), json.loads((source / "config.json").read_text())
    change(tensors, config)
    write_model(target, tensors, config)
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copy(source / name, target / name)
    return target


def with_fewer_layers(tensors, config):
    for name in [name for name in tensors if name.startswith("model.layers.1.")]:
        del tensors[name]
    config["text_config"]["num_hidden_layers"] = 1
    config["text_config"]["layer_types"] = config["text_config"]["layer_types"][:1]


def with_more_tokens(tensors, config):
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        tensors[name] = torch.cat([tensors[name], tensors[name][:8]])
    config["text_config"]["vocab_size"] += 8


def narrower(tensors, config):
    for name in tensors:
        if ".mlp.down_proj.weight" in name and name.startswith("model."):
            tensors[name] = tensors[name][:, :40].clone()
        elif ".mlp." in name and name.startswith("model."):
            tensors[name] = tensors[name][:40].clone()
    config["text_config"]["intermediate_size"] = 40


def with_other_heads(tensors, config):
    config["audio_config"]["encoder_attention_heads"] = 1


REFUSED = {
    with_fewer_layers: ("lacks model.layers.1", "name the whole model"),
    with_more_tokens: ("a vocabulary of 280 tokens, the thinker of omni of 272", "--truncate-vocabulary"),
    narrower: (r"\[32, 40\], the thinker of omni \[32, 48\]", "name the whole model"),
    with_other_heads: ("audio_config.encoder_attention_heads 1 in its config", "name the whole model"),
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda one: one.__name__)
def test_a_thinker_of_another_model_is_refused(tmp_path, omni, thinkers, change):
    other = changed(thinkers[0], tmp_path / "other", change)
    told, remedy = REFUSED[change]
    with pytest.raises(CheckpointError, match=told) as caught:
        chorus.export(other, tmp_path / "out", "hf", into=omni)
    assert remedy in caught.value.hint
    assert "other" in caught.value.message
    assert not (tmp_path / "out").exists()


def test_a_thinker_of_other_tokens_is_refused(tmp_path, omni, thinkers):
    other = shutil.copytree(thinkers[0], tmp_path / "other")
    document = json.loads((other / "tokenizer.json").read_text())
    vocabulary = document["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    (other / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="2 of its tokens are others in omni: 32 is 'B' in other, 'A' in omni"):
        chorus.export(other, tmp_path / "out", "hf", into=omni)


def test_what_is_no_part_and_what_is_no_whole_are_told(tmp_path, omni, thinkers):
    audio = tiny(tmp_path / "audio", "qwen2_audio")
    with pytest.raises(CheckpointError, match=r"audio is a Qwen2AudioFor.*what omni holds a Qwen2_5OmniThinker"):
        chorus.export(audio, tmp_path / "out", "hf", into=omni)
    with pytest.raises(CheckpointError, match="holds no other model") as caught:
        chorus.export(thinkers[0], tmp_path / "out", "hf", into=audio)
    assert "Qwen2_5OmniForConditionalGeneration" in caught.value.hint


def test_a_whole_that_is_put_into_another_gives_its_thinker(tmp_path, omni):
    other = whole_omni(tmp_path / "other", 4)
    done = chorus.export(other, tmp_path / "out", "hf", into=omni)
    assert "other: its thinker alone is taken, all else is omni's" in done.warnings
    found, theirs, mine = (load_all(place) for place in (tmp_path / "out", other, omni))
    assert all(torch.equal(v, (theirs if n.startswith("thinker.") else mine)[n]) for n, v in found.items())


def test_the_command_merges_a_recipe_into_the_whole(tmp_path, omni, thinkers, capsys):
    models = [{"model": str(one), "parameters": {"weight": 0.5}} for one in thinkers]
    recipe = write_recipe(tmp_path / "r.yml", {"merge_method": "linear", "models": models})
    out = tmp_path / "out"
    given = ["export", str(recipe), "--to", "hf", "--into", str(omni), "-o", str(out), "--type", "bfloat16"]
    assert run([*given, "--max-shard-size", "200KB"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert len(list(out.glob("*.safetensors"))) > 1
    mean = {n: sum(plain(load_all(one))[n] for one in thinkers) / 2 for n in plain(load_all(thinkers[0]))}
    found = of_thinker(load_all(out))
    assert all(torch.equal(found[name], value.to(torch.bfloat16)) for name, value in mean.items())
    facts = json.loads((out / "chorus.json").read_text())
    assert facts["recipe"]["merge_method"] == "linear"
    assert set(facts["files"]) == {"model.safetensors"}
    assert str(tmp_path) not in (out / "README.md").read_text() + json.dumps(facts)


def test_the_result_may_lie_on_neither_of_the_two(tmp_path, omni, thinkers, capsys):
    for place, told in ((omni, "one of the inputs"), (thinkers[0], "holds an input")):
        before = {p: p.read_bytes() for p in place.iterdir()}
        given = ["export", str(thinkers[0]), "--to", "hf", "--into", str(omni), "-o", str(place), "--overwrite"]
        assert run(given) == 2
        assert told in capsys.readouterr().err
        assert {p: p.read_bytes() for p in place.iterdir()} == before
