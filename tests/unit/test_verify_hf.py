"""Model directories held against their models: good ones pass, every damage is caught, and both are counted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import chorus
from chats import language_model
from chorus.checkpoints.safetensors_header import read_header
from chorus.errors import CheckpointError, UsageError
from chorus.verify.formats.hf import HfVerifier
from chorus.verify.verdict import Verification
from sounds import BASE

KINDS = ("own", "float32", "float16", "bfloat16")
WEIGHTS, QUERY = "model.safetensors", "model.encoder.layers.{}.self_attn.q_proj.weight"
EMBEDDING = "model.decoder.embed_tokens.weight"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return chorus.export(BASE, tmp_path_factory.mktemp("hf") / "all", "hf", types=KINDS).places


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language_model(tmp_path_factory.mktemp("qwen") / "qwen", "qwen2", tie_word_embeddings=True)


def looked_at(path: Path, level: int = 1, against: Path = BASE, form: str = "hf") -> Verification:
    return chorus.verify(path, against, settings=chorus.VerifyOptions(level=level), form=form)


def told(found: Verification) -> str:
    return "; ".join(f"L{one.level} {one.what}: {one.told}" for one in found.failed)


@pytest.mark.parametrize("kind", KINDS)
def test_every_good_directory_passes(written, kind):
    found = looked_at(written[kind], form="")
    assert (found.format, found.counts) == ("hf", {"holds": 11}), told(found)
    assert found.kind == {"own": "float16"}.get(kind, kind)
    (every,) = [one for one in found.verdicts if one.what.startswith("tensors in")]
    assert every.facts["tensors"] == every.facts["by_bytes"] == 65


def test_what_transformers_itself_saves_passes(qwen, tmp_path):
    """Shards, and a head that is tied; a Whisper too."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(qwen, dtype=torch.float16)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    transformers.AutoTokenizer.from_pretrained(qwen).save_pretrained(tmp_path / "sharded")
    found = looked_at(tmp_path / "sharded", against=qwen)
    assert found.ok, told(found)
    assert (found.kind, len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2) == ("float16", True)
    whisper = transformers.WhisperForConditionalGeneration.from_pretrained(BASE)
    transformers.WhisperProcessor.from_pretrained(BASE).save_pretrained(tmp_path / "w")
    whisper.save_pretrained(tmp_path / "w")
    found = looked_at(tmp_path / "w")
    assert found.ok, told(found)


def test_a_language_model_is_run_and_needs_no_recordings(qwen, tmp_path):
    place = chorus.export(qwen, tmp_path / "half", "hf", types="float16").places["float16"]
    found = looked_at(place, 5, qwen)
    assert found.ok, told(found)
    seen = {one.what: one for one in found.verdicts if one.level > 1}
    assert list(seen) == [
        "special tokens in transformers", "texts in transformers", "forced logits in transformers",
        "continuations in transformers", "cost in transformers", "size",
    ]  # fmt: skip
    assert seen["forced logits in transformers"].facts["clips"] == 25
    assert seen["continuations in transformers"].facts == {"same": 4}
    with pytest.raises(UsageError, match="hears nothing"):
        chorus.verify(place, qwen, ["a.flac"])


# ---- damaged ones ----


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(place: Path) -> None:
        state = load_file(place / WEIGHTS)
        change(state)
        save_file(state, place / WEIGHTS, {"format": "pt"})

    return damage


def settings(name: str, **changed: Any) -> Callable[[Path], None]:
    def damage(place: Path) -> None:
        found = json.loads((place / name).read_text())
        (place / name).write_text(json.dumps({**found, **changed}))

    return damage


def swapped(state: dict[str, torch.Tensor]) -> None:
    one, other = QUERY.format(0), QUERY.format(1)
    state[one], state[other] = state[other].clone(), state[one].clone()


def a_bit(state: dict[str, torch.Tensor]) -> None:
    state[EMBEDDING].view(torch.int16)[1000, 3] ^= 1


def a_number(state: dict[str, torch.Tensor]) -> None:
    state["model.encoder.layer_norm.weight"][0] = float("nan")


def more_mels(state: dict[str, torch.Tensor]) -> None:
    state["model.encoder.conv1.weight"] = torch.zeros(64, 128, 3, dtype=torch.float16)


def own_head(state: dict[str, torch.Tensor]) -> None:
    state["proj_out.weight"] = state[EMBEDDING].flip(0).contiguous()


def special_ids(place: Path) -> None:
    """Two special tokens in each other's place."""
    document = (place / "tokenizer.json").read_text()
    for one, other in (("<|transcribe|>", "<|x|>"), ("<|translate|>", "<|transcribe|>"), ("<|x|>", "<|translate|>")):
        document = document.replace(one, other)
    (place / "tokenizer.json").write_text(document)


def more_tokens(place: Path) -> None:
    """A token that the model has no row for."""
    document = json.loads((place / "tokenizer.json").read_text())
    last = document["added_tokens"][-1]
    document["added_tokens"].append({**last, "id": last["id"] + 1, "content": "<|mine|>"})
    (place / "tokenizer.json").write_text(json.dumps(document))


def gone(name: str) -> Callable[[Path], None]:
    return lambda place: (place / name).unlink()


DAMAGES: dict[str, tuple[int, Callable[[Path], object]]] = {
    "two tensors swapped": (1, weights(swapped)),
    "a bit of a value": (1, weights(a_bit)),
    "NaN": (0, weights(a_number)),
    "the tied head is missing": (0, weights(lambda state: state.pop(EMBEDDING))),
    "a head of its own": (0, weights(own_head)),
    "a layer's tensor is missing": (0, weights(lambda state: state.pop(QUERY.format(1)))),
    "a tensor too many": (0, weights(lambda state: state.update(more=torch.zeros(3)))),
    "128 mel bins in its weights": (0, weights(more_mels)),
    "128 mel bins in its config": (0, settings("config.json", num_mel_bins=128)),
    "128 mel bins of the front end": (0, settings("preprocessor_config.json", feature_size=128)),
    "another number of heads": (0, settings("config.json", decoder_attention_heads=8)),
    "a type that it has not": (0, settings("config.json", dtype="float32")),
    "special ids: of the settings": (0, settings("generation_config.json", decoder_start_token_id=50257)),
    "special ids: a language's": (0, settings("generation_config.json", lang_to_id={"<|en|>": 50260})),
    "special ids: of the tokenizer": (0, special_ids),
    "a token without a row": (0, more_tokens),
    "no generation settings": (0, gone("generation_config.json")),
    "no tokenizer": (0, lambda place: [path.unlink() for path in place.glob("*token*")] and gone("vocab.json")(place)),
    "no front end": (0, lambda place: [path.unlink() for path in place.glob("*processor*")]),
    "a vocabulary larger than its rows": (0, settings("config.json", vocab_size=51864)),
}


def test_there_are_as_many_damages_as_the_page_says():
    assert len(DAMAGES) == 20


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_caught_at_its_level(name, written, tmp_path):
    level, damage = DAMAGES[name]
    place = Path(shutil.copytree(written["own"], tmp_path / "damaged"))
    (place / "chorus.json").unlink()  # which would tell it by its hashes
    damage(place)
    found = looked_at(place, level)
    assert found.failed_at(level), name
    assert found.exit_code() == 1
    if level:
        assert not found.failed_at(0), told(found)


def test_a_file_that_ends_too_early_is_caught_at_each_tensor(written, tmp_path):
    place = Path(shutil.copytree(written["own"], tmp_path / "cut"))
    whole, source = (place / WEIGHTS).read_bytes(), chorus.open_model(BASE)
    entries = read_header(place / WEIGHTS).entries.values()
    cuts = [0, 5, 500, *(n for one in entries for n in (one.start, (one.start + one.stop) // 2, one.stop - 1))]
    caught = 0
    for cut in cuts:
        (place / WEIGHTS).write_bytes(whole[:cut])
        with pytest.raises(CheckpointError):
            HfVerifier().open(place, source)
        caught += 1
    assert caught == len(cuts) == 3 + 3 * 65


def test_an_index_that_promises_more_than_its_shards_hold(qwen, tmp_path):
    cut = chorus.ExportOptions(max_shard_bytes=100_000)
    place = chorus.export(qwen, tmp_path / "s", "hf", settings=cut).places["own"]
    assert looked_at(place, against=qwen).ok
    (place / "chorus.json").unlink()
    index = json.loads((place / f"{WEIGHTS}.index.json").read_text())
    index["weight_map"]["model.layers.9.mlp.up_proj.weight"] = next(iter(index["weight_map"].values()))
    (place / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    assert "are in none of its shards" in told(looked_at(place, against=qwen))
    next(place.glob("model-00002*")).unlink()
    assert [one.what for one in looked_at(place, against=qwen).failed] == ["read to its end"]


def test_a_directory_that_changed_since_is_told_by_its_hashes(written, tmp_path):
    place = Path(shutil.copytree(written["own"], tmp_path / "changed"))
    assert any(one.what == "as it was written" for one in looked_at(place, 0).verdicts)
    (place / "README.md").write_text("another card")
    (one,) = looked_at(place, 0).failed
    assert (one.what, one.told) == ("as it was written", "it has changed since: README.md")
    # facts of another kind, as a training leaves them, tell of no files
    (place / "chorus.json").write_text(json.dumps({"kind": "training"}))
    assert not any(one.what == "as it was written" for one in looked_at(place, 0).verdicts)
