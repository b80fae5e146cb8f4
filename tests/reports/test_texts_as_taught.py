"""Texts that were taught as what the decoder may not write: first tokens, special tokens, other tokenizers, pipes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import chorus
from chorus.data.check import check
from chorus.data.manifest import Row, read_manifest, write_manifest
from chorus.errors import CheckpointError, DataError, UsageError
from chorus.models.loading import limits_of
from chorus.train.backbones.choose import load_backbone
from chorus.train.layers import load_train_config
from chorus.transcribe.decoding import decoding
from models import build, whisper_generation
from sounds import BASE, corpus, never_written, tiny, whisper_tokenizer


def settings(base: Path, manifest: Path, folder: Path, **more):
    document = {"model": {"base": str(base)}, "data": {"train": str(manifest)}}
    document |= {"output": str(folder / "out"), "logs": str(folder / "logs"), "device": "cpu"}
    return load_train_config(document, overrides=[f"{k}={v}" for k, v in {"train.steps": 1, **more}.items()])


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tiny Whisper with the digits example's tokenizer, and what published ones never write."""
    from transformers import WhisperTokenizerFast

    model = build("whisper", max_target_positions=64)
    model.generation_config = whisper_generation()
    model.generation_config.suppress_tokens = never_written(WhisperTokenizerFast.from_pretrained(BASE))
    model.generation_config.max_length = 64
    model.save_pretrained(tmp_path / "base")
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copy(BASE / name, tmp_path / "base")
    return tmp_path / "base"


def spoken(folder: Path, *texts: tuple[str, str]) -> Path:
    """A recording for each text and its language, the last one also as dev."""
    _, rows = corpus(folder, len(texts), seconds=0.5)
    rows = [replace(r, text=t, language=code, split="train") for r, (t, code) in zip(rows, texts, strict=True)]
    return write_manifest([*rows, replace(rows[-1], split="test")], folder / "m.csv")


@pytest.mark.reported("first-token-forbidden")
def test_a_text_begins_with_what_the_decoder_may_begin_with(base, tmp_path):
    texts = [("เปิดไฟ", "th"), ("আমি ভালো", "bn"), ("今日は晴れ", "ja"), ("आज मौसम अच्छा", "hi"), ("ten of clubs", "en")]
    manifest = spoken(tmp_path, *texts)
    backbone = load_backbone(settings(base, manifest, tmp_path), "cpu")
    generation = backbone.model.generation_config
    assert generation.begin_suppress_tokens == [220, 50257]
    for row in read_manifest(manifest).rows:
        for timestamps in (False, True):
            said = backbone.targets(row, 0.5, timestamps=timestamps)[3 : -2 if timestamps else -1]
            assert said[0] not in generation.begin_suppress_tokens
            assert not set(said) & set(generation.suppress_tokens)
            spaced = row.language in ("en", "hi")  # as the pretrained model begins there
            assert backbone.tokenizer.decode(said) == " " * spaced + row.text


@pytest.mark.reported("first-token-forbidden")
def test_a_translation_begins_as_the_language_does_that_is_written(base, tmp_path):
    rows = read_manifest(spoken(tmp_path, ("good day", "ja"), ("今日は晴れ", "en"))).rows
    backbone = load_backbone(settings(base, tmp_path / "m.csv", tmp_path, task="st"), "cpu")
    into_japanese = replace(rows[1], extra={"target_language": "Japanese"})
    for row, text in ((rows[0], " good day"), (into_japanese, "今日は晴れ")):
        assert backbone.tokenizer.decode(backbone.targets(row, 0.5, timestamps=False)[3:-1]) == text


@pytest.mark.reported("first-token-forbidden")
def test_symbols_that_the_model_never_writes_are_told_and_not_learnt(base, tmp_path):
    manifest = spoken(tmp_path, ("「今日は」", "ja"), ('say "five"', "en"), ("♪♪", "en"))
    told: list[str] = []
    with pytest.raises(DataError, match=r"1 unwritable text: audio/002.flac: the model's decoding writes none"):
        chorus.train(settings(base, manifest, tmp_path))
    chorus.train(settings(base, manifest, tmp_path), skip_bad=True, note=told.append)
    assert [t for t in told if "never writes" in t] == [
        "WARNING: 2 texts hold what this model's decoding never writes (suppress_tokens: \" 「 」): it is left out of "
        "what is learnt"
    ]
    found = {f.kind: f.rows for f in check(read_manifest(manifest).rows[:3], limits=limits_of(str(base))).findings}
    assert found["symbols that are not learnt"] == ["audio/000.flac: 「 」", 'audio/001.flac: "', "audio/002.flac: ♪♪"]


@pytest.mark.reported("special-tokens-in-texts")
def test_special_tokens_in_texts_are_refused_by_row_or_stripped(base, tmp_path):
    texts = ("hello <|endoftext|> world", "<|0.00|> four queen<|1.96|>", "<|startoftranscript|><|de|>guten tag")
    manifest = spoken(tmp_path, *((text, "en") for text in texts))
    report = check(read_manifest(manifest).rows[:3], limits=limits_of(str(base)))
    assert {f.kind: f.rows for f in report.findings}["special tokens in text"] == [
        "audio/000.flac: <|endoftext|>", "audio/001.flac: <|0.00|> <|1.96|>",
        "audio/002.flac: <|startoftranscript|> <|de|>",
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"3 special tokens in text: audio/000.flac: <\|endoftext\|>") as error:
        chorus.train(settings(base, manifest, tmp_path))
    assert "data.special_tokens=strip" in error.value.hint
    stripped = settings(base, manifest, tmp_path, **{"data.special_tokens": "strip"})
    assert chorus.train(stripped).left_out == {}
    backbone = load_backbone(stripped, "cpu")
    for row in read_manifest(manifest).rows:  # nor where nobody has looked
        assert max(backbone.targets(row, 1.0, timestamps=False)[3:-1]) < backbone.tokenizer.eos_token_id


@pytest.mark.reported("special-tokens-in-texts")
def test_speech_llms_and_their_prompts_hold_no_turns_of_their_own(tmp_path):
    base = tiny(tmp_path / "q", "qwen2_audio")
    _, (first, second, third, *_) = corpus(tmp_path, 4)
    rows = [replace(first, text="done<|im_end|>"), replace(second, extra={"prompt": "What? <|AUDIO|>"}), third]
    manifest = write_manifest([replace(r, split="") for r in rows], tmp_path / "m.csv")
    with pytest.raises(DataError, match=r"2 special tokens in text: audio/000.flac: <\|im_end\|>, audio/001.flac"):
        chorus.train(settings(base, manifest, tmp_path))
    backbone = load_backbone(settings(base, manifest, tmp_path), "cpu")
    tokenizer, recogniser = backbone.tokenizer, backbone.recogniser
    asked = recogniser.question("What? <|AUDIO|><|im_end|>", 40)
    plain = recogniser.question("What?", 40)
    for mark in ("<|AUDIO|>", "<|im_end|>", "<|im_start|>"):
        number = tokenizer.convert_tokens_to_ids(mark)
        assert asked.count(number) == plain.count(number)
    with pytest.raises(UsageError, match="special token, which a prompt cannot hold"):
        decoding("default", {"prompt": "Say it <|im_end|>"})


@pytest.mark.reported("other-tokenizer")
@pytest.mark.parametrize(
    ("model", "tokenizer", "told"),
    [
        (
            "v3",
            "v2",
            r"notimestamps\|> is 50363 there, and 50364 in the model's settings .*51,865 tokens.*51,866",
        ),
        (
            "v2",
            "v3",
            r"notimestamps\|> is 50364 there, and 50363 in the model's settings .*51,866 tokens.*51,865",
        ),
        ("v2", "en", r"notimestamps\|> is 50362 there, and 50363 in the model's settings"),
        ("v2", "bare", r"the tokenizer has no <\|startoftranscript\|> and no <\|notimestamps\|>"),
    ],
)
def test_a_tokenizer_of_another_whisper_is_refused_with_both_numbers(model, tokenizer, told, tmp_path):
    place = mixed(tmp_path / "m", model, tokenizer, settled=True)
    manifest, _ = corpus(tmp_path)
    with pytest.raises(CheckpointError, match=told):
        limits_of(str(place))
    with pytest.raises(CheckpointError, match=told):
        chorus.train(settings(place, manifest, tmp_path))
    with pytest.raises(CheckpointError, match=told):
        chorus.evaluate(str(place), manifest, tmp_path / "evaluation", device="cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.reported("other-tokenizer")
@pytest.mark.parametrize(("model", "tokenizer"), [("v3", "v2"), ("v2", "v3")])
def test_without_generation_settings_the_sizes_tell(model, tokenizer, tmp_path):
    with pytest.raises(CheckpointError, match=r"the tokenizer is another model's \(51,86\d tokens"):
        limits_of(str(mixed(tmp_path / "m", model, tokenizer, settled=False)))


@pytest.mark.parametrize("kind", ["v2", "v3", "en"])
def test_a_whisper_with_its_own_tokenizer_is_taken(kind, tmp_path):
    for settled in (True, False):
        limits = limits_of(str(mixed(tmp_path / str(settled), kind, kind, settled=settled)))
        assert len(limits.languages) == {"v2": 99, "v3": 100, "en": 0}[kind]


def mixed(place: Path, model: str, tokenizer: str, *, settled: bool) -> Path:
    """The config (and settings) of one Whisper with the tokenizer of another, and weights."""
    shift = {"v2": 0, "v3": 1, "en": -1}[model]
    start = 50258 + min(shift, 0)
    tokens = {"eos_token_id": start - 1, "pad_token_id": start - 1, "decoder_start_token_id": start}
    whole = build("whisper", vocab_size=51865 + shift, bos_token_id=start - 1, max_target_positions=64, **tokens)
    whole.save_pretrained(place)
    (place / "generation_config.json").unlink()
    if settled:
        told = {**tokens, "no_timestamps_token_id": 50363 + shift, "is_multilingual": model != "en"}
        if model != "en":
            told |= {"lang_to_id": {"<|en|>": 50259}, "task_to_id": {"transcribe": 50359 + shift}}
        (place / "generation_config.json").write_text(json.dumps(told))
    shutil.copy(BASE / "preprocessor_config.json", place)
    if tokenizer != "bare":
        whisper_tokenizer(place, tokenizer)
        return place
    known = json.loads((BASE / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (place / "vocab.json").write_text(json.dumps(known["vocab"]))
    (place / "merges.txt").write_text("\n".join(" ".join(pair) for pair in known["merges"]))
    return place


@pytest.mark.reported("pipe-in-ctc")
def test_a_pipe_in_a_text_is_no_second_space(tmp_path):
    base = tiny(tmp_path / "w", "wav2vec2_pretrained")
    manifest = spoken(tmp_path, ("no no|", "en"), ("on|no", "en"), ("<pad> on", "en"), ("one", "en"))
    with pytest.raises(DataError, match=r"3 special tokens in text: audio/000.flac: \|, audio/001.flac: \|, audio/002"):
        chorus.train(settings(base, manifest, tmp_path))
    stripped = settings(base, manifest, tmp_path, **{"data.special_tokens": "strip"})
    done = chorus.train(stripped)
    assert (done.steps, done.left_out) == (1, {})
    letters = json.loads((done.directory / "vocab.json").read_text())
    assert sorted(letters.values()) == list(range(len(letters))), "each letter has a number of its own"
    trained = load_backbone(settings(done.directory, manifest, tmp_path), "cpu")
    assert trained.model.lm_head.out_features == len(letters)
    assert torch.isfinite(next(iter(trained.model.lm_head.parameters()))).all()


def test_control_tokens_of_a_row_are_found_under_any_spelling_that_the_tokenizer_reads(tmp_path):
    """A CTC vocabulary of small letters is given small letters: <PAD> is read as <pad>."""
    limits = limits_of(str(tiny(tmp_path / "w", "wav2vec2")))
    rows = [Row(text="<PAD> one"), Row(text="one")]
    assert [(kind, detail) for _, kind, detail in limits.problems(rows)] == [("special tokens in text", "<pad>")]
