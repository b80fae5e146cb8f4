"""The files beside the weights: what is copied, and the old and the new forms made of each other."""

from __future__ import annotations

import json
import os

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


def copied(source, out):
    """What a directory holds, copied and completed."""
    return copy_side_files({path.name: path for path in sorted(source.iterdir())}, out)


# ---- what is copied ----


def test_files_are_copied_under_their_names_folders_too(places):
    source, other, out = places
    put(source, "a.json", "a")
    (other / "sub").mkdir()
    put(other, "sub/b.bin", "b")
    assert copy_side_files({"a.json": source / "a.json", "sub/b.bin": other / "sub" / "b.bin"}, out) == []
    assert (out / "a.json").read_text() + (out / "sub" / "b.bin").read_text() == "ab"


def test_what_is_no_file_is_refused_and_not_waited_for(places):
    source, _, out = places
    os.mkfifo(source / "tokenizer.json")
    with pytest.raises(CheckpointError, match="a pipe, not a file"):
        copied(source, out)


def test_a_folder_that_cannot_be_written_is_told(places, tmp_path):
    source, _, _ = places
    put(source, "tokenizer_config.json", {})
    put(tmp_path, "a file", "")
    with pytest.raises(OutputError, match="tokenizer_config"):
        copied(source, tmp_path / "a file")


# ---- processors ----


def test_the_new_processor_file_gives_the_old_one(places):
    source, _, out = places
    put(source, "processor_config.json", {"processor_class": "WhisperProcessor", "feature_extractor": EXTRACTOR})
    copied(source, out)
    assert read(out, "preprocessor_config.json") == {**EXTRACTOR, "processor_class": "WhisperProcessor"}


def test_the_old_processor_file_is_enough(places):
    """transformers up to 4.55 cannot read the new one; later ones read both."""
    source, _, out = places
    put(source, "preprocessor_config.json", {**EXTRACTOR, "processor_class": "WhisperProcessor"})
    copied(source, out)
    assert {p.name for p in out.iterdir()} == {"preprocessor_config.json"}


def test_forms_that_are_there_are_left_alone(places):
    source, _, out = places
    put(source, "processor_config.json", {"feature_extractor": {**EXTRACTOR, "feature_size": 128}})
    put(source, "preprocessor_config.json", EXTRACTOR)
    copied(source, out)
    assert read(out, "preprocessor_config.json") == EXTRACTOR
    assert read(out, "processor_config.json")["feature_extractor"]["feature_size"] == 128


@pytest.mark.parametrize("settings", [{"image_processor": {}}, {"feature_extractor": "elsewhere"}])
def test_a_processor_without_an_extractor_has_no_old_form(places, settings):
    source, _, out = places
    put(source, "processor_config.json", settings)
    copied(source, out)
    assert not (out / "preprocessor_config.json").exists()


def test_the_extractors_settings_are_read_from_either_form(tmp_path):
    assert feature_extractor_of(None) == {}
    assert feature_extractor_of(tmp_path) == {}
    put(tmp_path, "processor_config.json", {"feature_extractor": EXTRACTOR})
    assert feature_extractor_of(tmp_path) == EXTRACTOR
    put(tmp_path, "preprocessor_config.json", {**EXTRACTOR, "feature_size": 128})
    assert feature_extractor_of(tmp_path)["feature_size"] == 80  # the new one wins, as in transformers
    put(tmp_path, "processor_config.json", {"feature_extractor": "a name"})
    assert feature_extractor_of(tmp_path)["feature_size"] == 128
    put(tmp_path, "processor_config.json", {"audio_processor": {**EXTRACTOR, "feature_size": 40}})
    assert feature_extractor_of(tmp_path)["feature_size"] == 40


def test_transformers_prefers_the_same_settings(tmp_path):
    from transformers import WhisperFeatureExtractor

    put(tmp_path, "preprocessor_config.json", {**EXTRACTOR, "feature_size": 128})
    for key in ("nothing", "feature_extractor", "audio_processor"):
        put(tmp_path, "processor_config.json", {key: EXTRACTOR})
        theirs = WhisperFeatureExtractor.get_feature_extractor_dict(tmp_path)[0]
        assert theirs["feature_size"] == feature_extractor_of(tmp_path)["feature_size"]


# ---- tokenizers ----


@pytest.mark.parametrize("merges", [["a b"], [["a", "b"]]], ids=["as text", "as pairs"])
def test_the_old_tokenizer_files_are_made_of_the_new_one(places, merges):
    source, _, out = places
    put(source, "tokenizer.json", tokenizer_json(merges))
    put(source, "tokenizer_config.json", {"eos_token": "<|end|>", "pad_token": {"content": "<|end|>"}, "model_max": 9})
    assert copied(source, out) == []
    assert read(out, "vocab.json") == VOCABULARY
    assert (out / "merges.txt").read_text() == "#version: 0.2\na b\n"
    assert read(out, "added_tokens.json") == {"<|end|>": 3}
    assert read(out, "special_tokens_map.json") == {"eos_token": "<|end|>", "pad_token": {"content": "<|end|>"}}


def test_tokens_of_the_vocabulary_are_not_added_again(places):
    source, _, out = places
    put(source, "tokenizer.json", tokenizer_json([], added=[("ab", 2)]))
    copied(source, out)
    assert not (out / "added_tokens.json").exists()
    assert not (out / "special_tokens_map.json").exists()


def test_a_tokenizer_of_another_kind_has_no_old_files(places):
    source, _, out = places
    put(source, "tokenizer.json", tokenizer_json([], kind="Unigram"))
    copied(source, out)
    assert {p.name for p in out.iterdir()} == {"tokenizer.json"}


def test_old_files_that_are_there_stay_as_they_are(places):
    source, _, out = places
    put(source, "tokenizer.json", tokenizer_json(["a b"]))
    put(source, "vocab.json", {"z": 9})
    put(source, "merges.txt", "of old\n")
    copied(source, out)
    assert read(out, "vocab.json") == {"z": 9}
    assert (out / "merges.txt").read_text() == "of old\n"


@pytest.mark.parametrize("change", [{"merges": 3}, {"merges": [3]}, {"added_tokens": [{}]}, {"added_tokens": [1]}])
def test_a_tokenizer_of_an_unknown_form_is_carried_and_told(places, change):
    source, _, out = places
    document = tokenizer_json(change.get("merges", []))
    put(source, "tokenizer.json", {**document, **{k: v for k, v in change.items() if k != "merges"}})
    (warning,) = copied(source, out)
    assert "of an unknown form" in warning
    put(source, "tokenizer.json", {"model": [1], "added_tokens": 7})
    assert copied(source, out) == []


def test_a_damaged_tokenizer_is_told(places):
    source, _, out = places
    put(source, "tokenizer.json", "{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not readable as JSON"):
        copied(source, out)


def test_the_new_tokenizer_file_is_made_of_the_old_ones_and_cuts_alike(places):
    """Of the digits' tokenizer, first its new file alone, then the old files that were made of that."""
    from transformers import AutoTokenizer

    source, other, out = places
    for name in ("tokenizer.json", "tokenizer_config.json"):
        put(source, name, (BASE / name).read_text())
    put(source, "config.json", {"model_type": "whisper"})
    copied(source, other)
    (other / "tokenizer.json").unlink()
    put(other, "config.json", {"model_type": "whisper"})
    put(out, "config.json", {"model_type": "whisper"})
    assert copied(other, out) == []
    assert (out / "tokenizer.json").exists()
    first, last = AutoTokenizer.from_pretrained(source), AutoTokenizer.from_pretrained(out)
    for text in ("one two", " seven, three!", "ação"):
        assert first(text).input_ids == last(text).input_ids


def test_a_tokenizer_that_transformers_cannot_read_is_a_warning(places):
    source, _, out = places
    put(source, "vocab.json", "[]")
    put(source, "merges.txt", "")
    (warning,) = copied(source, out)
    assert "tokenizer.json could not be made" in warning


def test_json_keeps_its_order_and_its_letters(tmp_path):
    write_json(tmp_path / "wide.json", {"z": "ã", "a": [1]})
    assert (tmp_path / "wide.json").read_text(encoding="utf-8") == '{\n  "z": "ã",\n  "a": [\n    1\n  ]\n}\n'
    write_json(tmp_path / "tight.json", {"z": 1, "a": 2}, indent=None)
    assert (tmp_path / "tight.json").read_text() == '{"z":1,"a":2}\n'
