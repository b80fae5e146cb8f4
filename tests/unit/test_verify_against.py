"""An export held against a source that it was not made of: of other sizes, or with other names of the same tokens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import chorus
from chorus.checkpoints.beside import is_processor, is_tokenizer
from chorus.verify.verdict import Verification
from sounds import BASE

CHANGES = {
    "wider": {"d_model": 96, "encoder_ffn_dim": 384, "decoder_ffn_dim": 384},
    "narrower": {"d_model": 32, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128},
    "deeper": {"encoder_layers": 3, "decoder_layers": 3},
    "shallower": {"encoder_layers": 1, "decoder_layers": 1},
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models like the base, of other sizes."""
    import transformers

    made, folder = {}, tmp_path_factory.mktemp("sources")
    for name, change in CHANGES.items():
        config = transformers.WhisperConfig.from_pretrained(BASE)
        config.update(change)
        transformers.WhisperForConditionalGeneration(config).save_pretrained(made.setdefault(name, folder / name))
        for path in BASE.iterdir():
            if is_tokenizer(path.name) or is_processor(path.name):
                shutil.copy(path, folder / name / path.name)
    return made


@pytest.mark.parametrize("form", ["ggml", "ctranslate2", "openai", "onnx", "hf"])
def test_a_source_of_other_sizes_is_a_failed_check_of_the_structure(form, sources, tmp_path):
    if form == "ggml":
        pytest.importorskip("gguf")
    (export,) = chorus.export(BASE, tmp_path / "made", form).places.values()
    for name, source in sources.items():
        found = chorus.verify(export, source, settings=chorus.VerifyOptions(level=1), form=form)
        # tensors that have nothing to be held against are not compared
        assert [one.status for one in found.verdicts if one.level == 1] == ["skipped"], name
        failed = [one.what for one in found.failed if "shapes" in one.what]
        assert len(failed) == 1, (name, found.failed)
        assert found.exit_code() == 1


# ---- what CTranslate2 and faster-whisper read beside the weights ----


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (made,) = chorus.export(BASE, tmp_path_factory.mktemp("ct2") / "made", "ctranslate2").places.values()
    return made


def changed(directory: Path, into: Path, name: str, change: Callable[[dict], object]) -> Path:
    """A copy without what tells its hashes, and with a file of it changed."""
    made = Path(shutil.copytree(directory, into / "changed"))
    (made / "chorus.json").unlink()
    settings = json.loads((made / name).read_text())
    change(settings)
    (made / name).write_text(json.dumps(settings))
    return made


def failed(found: Verification) -> dict[str, int]:
    return {one.what: one.level for one in found.failed}


def swapped(tokenizer: dict) -> None:
    """Two words of a vocabulary in each other's place, as another model's tokenizer has them."""
    words = tokenizer["model"]["vocab"]
    words["\u0120your"], words["\u0120seven"] = words["\u0120seven"], words["\u0120your"]


def test_a_tokenizer_of_another_model_s_is_caught_by_its_ids_and_by_texts(directory, tmp_path):
    made = changed(directory, tmp_path, "tokenizer.json", swapped)
    found = chorus.verify(made, BASE, settings=chorus.VerifyOptions(level=2))
    assert failed(found)["tokenizer.json, id for id"] == 0
    assert failed(found)["texts by tokenizer and table"] == 2
    whole = chorus.verify(directory, BASE, settings=chorus.VerifyOptions(level=2))
    assert failed(whole) == {}
    assert "texts by tokenizer and table" in [one.what for one in whole.verdicts]


def test_a_tokenizer_that_is_missing_or_none_is_told(directory, tmp_path):
    made = changed(directory, tmp_path, "tokenizer.json", dict)
    (made / "tokenizer.json").unlink()
    (one,) = [one for one in looked_at(made).verdicts if one.what.startswith("tokenizer.json")]
    assert (one.status, "whisper-tiny" in one.told) == ("flagged", True)
    (made / "tokenizer.json").write_text("{")
    assert failed(looked_at(made))["tokenizer.json, id for id"] == 0


def looked_at(place: Path) -> Verification:
    return chorus.verify(place, BASE, settings=chorus.VerifyOptions(level=0))


@pytest.mark.parametrize("key", ["suppress_ids", "suppress_ids_begin", "lang_ids", "alignment_heads"])
def test_a_number_of_the_settings_that_is_another_is_caught(key, directory, tmp_path):
    def change(settings: dict) -> None:
        listed = settings[key] or [[0, 0]]
        settings[key] = [*listed[:-1], [9, 9] if key == "alignment_heads" else 7]

    found = looked_at(changed(directory, tmp_path, "config.json", change))
    assert failed(found) == {"config.json": 0}
    assert key in found.failed[0].told


def test_the_order_of_the_settings_is_free_and_a_file_of_them_is_not(directory, tmp_path):
    def turn(settings: dict) -> None:
        settings.update({key: value[::-1] for key, value in settings.items() if isinstance(value, list)})

    made = changed(directory, tmp_path, "config.json", turn)
    assert looked_at(made).ok
    for damage in ("{", "[]"):
        (made / "config.json").write_text(damage)
        assert "config.json" in failed(looked_at(made))
    (made / "config.json").unlink()
    assert failed(looked_at(made))["config.json"] == 0


def test_a_front_end_that_is_missing_is_told_and_one_that_hears_otherwise_fails(directory, tmp_path):
    made = changed(directory, tmp_path, "preprocessor_config.json", lambda settings: settings.update(hop_length=80))
    assert failed(looked_at(made)) == {"preprocessor_config.json": 0}
    (made / "preprocessor_config.json").unlink()
    (one,) = [one for one in looked_at(made).verdicts if one.what == "preprocessor_config.json"]
    assert (one.status, "missing" in one.told) == ("flagged", True)


# ---- names ----


def test_a_token_under_its_other_name_is_the_same_by_its_number(directory, tmp_path):
    def rename(tokenizer: dict) -> None:
        words = {"<|nospeech|>": "<|nocaptions|>", "<|he|>": "<|iw|>"}
        words |= {other: name for name, other in words.items()}
        for one in tokenizer["added_tokens"]:
            one["content"] = words.get(one["content"], one["content"])

    old = Path(shutil.copytree(BASE, tmp_path / "old"))
    settings = json.loads((old / "tokenizer.json").read_text())
    rename(settings)
    (old / "tokenizer.json").write_text(json.dumps(settings))
    for export, against in ((BASE, old), (old, BASE)):
        found = chorus.verify(export, against, settings=chorus.VerifyOptions(level=0), form="hf")
        assert failed(found) == {}, found.failed
        assert "tokens of its own" not in [one.what for one in found.verdicts]
    assert failed(looked_at(changed(directory, tmp_path, "tokenizer.json", rename))) == {}
