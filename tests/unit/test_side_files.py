"""The files beside the weights: what is copied, and the old and the new forms made of each other."""

from __future__ import annotations

import json

import pytest

from chorus.checkpoints.sidecar import copy_side_files, feature_extractor_of, write_json
from chorus.errors import CheckpointError, OutputError
from sounds import BASE

EXTRACTOR = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80, "sampling_rate": 16000}
VOCABULARY = {"a": 0, "b": 1, "ab": 2}


def tokenizer_json(merges, added=(("<|end|>", 3),), kind="BPE"):
    model = {"type": kind, "vocab": VOCABULARY, "merges": merges}
    return {"model": model, "added_tokens": [{"content": text, "id": number} for text, number in added]}


@pytest.fixture
def places(tmp_path):
    """A model's own directory, another one's, and where the files go."""
    made = [tmp_path / name for name in ("source", "other", "out")]
    for place in made:
        place.mkdir()
    return made


def put(place, name, value):
    (place / name).write_text(value if isinstance(value, str) else json.dumps(value))


def read(place, name):
    return json.loads((place / name).read_text())


# ---- what is copied ----


def test_tokenizer_and_processor_may_come_from_two_models(places):
    source, other, out = places
    for place, mark in ((source, "source"), (other, "other")):
        put(place, "tokenizer_config.json", {"from": mark})
        put(place, "preprocessor_config.json", {"from": mark})
    assert copy_side_files(source, other, out) == []
    assert read(out, "tokenizer_config.json") == {"from": "source"}
    assert read(out, "preprocessor_config.json") == {"from": "other"}


def test_only_the_known_files_are_copied(places):
    source, _, out = places
    put(source, "tokenizer_config.json", {})
    put(source, "training_args.bin", "secret")
    (source / "vocab.json").mkdir()  # a folder of that name is no tokenizer file
    copy_side_files(source, source, out)
    assert {p.name for p in out.iterdir()} == {"tokenizer_config.json"}


@pytest.mark.parametrize("missing", ["tokenizer", "processor", "both"])
def test_without_a_source_nothing_is_copied(places, missing):
    source, _, out = places
    put(source, "tokenizer_config.json", {})
    put(source, "preprocessor_config.json", EXTRACTOR)
    tokenizer = None if missing in ("tokenizer", "both") else source
    processor = None if missing in ("processor", "both") else source
    copy_side_files(tokenizer, processor, out)
    assert (out / "tokenizer_config.json").exists() == (tokenizer is not None)
    assert (out / "preprocessor_config.json").exists() == (processor is not None)


def test_a_folder_that_cannot_be_written_is_told(places, tmp_path):
    source, _, _ = places
    put(source, "tokenizer_config.json", {})
    with pytest.raises(OutputError, match="tokenizer_config"):
        copy_side_files(source, None, tmp_path / "nowhere")


# ---- processors ----


def test_the_new_processor_file_gives_the_old_one(places):
    source, _, out = places
    put(source, "processor_config.json", {"processor_class": "WhisperProcessor", "feature_extractor": EXTRACTOR})
    copy_side_files(None, source, out)
    assert read(out, "preprocessor_config.json") == {**EXTRACTOR, "processor_class": "WhisperProcessor"}


@pytest.mark.parametrize("stated", [None, "MyProcessor"])
def test_the_old_processor_file_gives_the_new_one(places, stated):
    source, _, out = places
    put(source, "preprocessor_config.json", EXTRACTOR | ({"processor_class": stated} if stated else {}))
    copy_side_files(None, source, out)
    made = read(out, "processor_config.json")
    assert made == {"feature_extractor": EXTRACTOR, "processor_class": stated or "WhisperProcessor"}


def test_forms_that_are_there_are_left_alone(places):
    source, _, out = places
    put(source, "processor_config.json", {"feature_extractor": {**EXTRACTOR, "feature_size": 128}})
    put(source, "preprocessor_config.json", EXTRACTOR)
    copy_side_files(None, source, out)
    assert read(out, "preprocessor_config.json") == EXTRACTOR
    assert read(out, "processor_config.json")["feature_extractor"]["feature_size"] == 128


@pytest.mark.parametrize("settings", [{"image_processor": {}}, {"feature_extractor": "elsewhere"}])
def test_a_processor_without_an_extractor_has_no_old_form(places, settings):
    source, _, out = places
    put(source, "processor_config.json", settings)
    copy_side_files(None, source, out)
    assert not (out / "preprocessor_config.json").exists()


def test_an_image_processor_has_no_new_form(places):
    source, _, out = places
    put(source, "preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor"})
    copy_side_files(None, source, out)
    assert not (out / "processor_config.json").exists()


def test_the_extractors_settings_are_read_from_either_form(tmp_path):
    assert feature_extractor_of(None) == {}
    assert feature_extractor_of(tmp_path) == {}
    put(tmp_path, "processor_config.json", {"feature_extractor": EXTRACTOR})
    assert feature_extractor_of(tmp_path) == EXTRACTOR
    put(tmp_path, "processor_config.json", {"feature_extractor": "a name"})
    assert feature_extractor_of(tmp_path) == {}
    put(tmp_path, "preprocessor_config.json", {**EXTRACTOR, "feature_size": 128})  # the old one wins
    assert feature_extractor_of(tmp_path)["feature_size"] == 128


# ---- tokenizers ----


@pytest.mark.parametrize("merges", [["a b"], [["a", "b"]]], ids=["as text", "as pairs"])
def test_the_old_tokenizer_files_are_made_of_the_new_one(places, merges):
    source, _, out = places
    put(source, "tokenizer.json", tokenizer_json(merges))
    put(source, "tokenizer_config.json", {"eos_token": "<|end|>", "pad_token": {"content": "<|end|>"}, "model_max": 9})
    assert copy_side_files(source, None, out) == []
    assert read(out, "vocab.json") == VOCABULARY
    assert (out / "merges.txt").read_text() == "#version: 0.2\na b\n"
    assert read(out, "added_tokens.json") == {"<|end|>": 3}
    assert read(out, "special_tokens_map.json") == {"eos_token": "<|end|>", "pad_token": {"content": "<|end|>"}}


def test_tokens_of_the_vocabulary_are_not_added_again(places):
    source, _, out = places
    put(source, "tokenizer.json", tokenizer_json([], added=[("ab", 2)]))
    copy_side_files(source, None, out)
    assert not (out / "added_tokens.json").exists()
    assert not (out / "special_tokens_map.json").exists()


def test_a_tokenizer_of_another_kind_has_no_old_files(places):
    source, _, out = places
    put(source, "tokenizer.json", tokenizer_json([], kind="Unigram"))
    copy_side_files(source, None, out)
    assert {p.name for p in out.iterdir()} == {"tokenizer.json"}


def test_old_files_that_are_there_stay_as_they_are(places):
    source, _, out = places
    put(source, "tokenizer.json", tokenizer_json(["a b"]))
    put(source, "vocab.json", {"z": 9})
    put(source, "merges.txt", "of old\n")
    copy_side_files(source, None, out)
    assert read(out, "vocab.json") == {"z": 9}
    assert (out / "merges.txt").read_text() == "of old\n"


def test_a_damaged_tokenizer_is_told(places):
    source, _, out = places
    put(source, "tokenizer.json", "{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not readable as JSON"):
        copy_side_files(source, None, out)


def test_the_new_tokenizer_file_is_made_of_the_old_ones_and_cuts_alike(places):
    """Of the digits' tokenizer, first its new file alone, then the old files that were made of that."""
    from transformers import AutoTokenizer

    source, other, out = places
    for name in ("tokenizer.json", "tokenizer_config.json"):
        put(source, name, (BASE / name).read_text())
    put(source, "config.json", {"model_type": "whisper"})
    copy_side_files(source, None, other)
    (other / "tokenizer.json").unlink()
    put(other, "config.json", {"model_type": "whisper"})
    put(out, "config.json", {"model_type": "whisper"})
    assert copy_side_files(other, None, out) == []
    assert (out / "tokenizer.json").exists()
    first, last = AutoTokenizer.from_pretrained(source), AutoTokenizer.from_pretrained(out)
    for text in ("one two", " seven, three!", "ação"):
        assert first(text).input_ids == last(text).input_ids


def test_a_tokenizer_that_transformers_cannot_read_is_a_warning(places):
    source, _, out = places
    put(source, "vocab.json", "[]")
    put(source, "merges.txt", "")
    (warning,) = copy_side_files(source, None, out)
    assert "tokenizer.json could not be made" in warning


def test_json_keeps_its_order_and_its_letters(tmp_path):
    write_json(tmp_path / "wide.json", {"z": "ã", "a": [1]})
    assert (tmp_path / "wide.json").read_text(encoding="utf-8") == '{\n  "z": "ã",\n  "a": [\n    1\n  ]\n}\n'
    write_json(tmp_path / "tight.json", {"z": 1, "a": 2}, indent=None)
    assert (tmp_path / "tight.json").read_text() == '{"z":1,"a":2}\n'
