"""Voxtral and Qwen3-ASR: what they are asked, held against transformers' own processor where it runs without more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import chorus
from chorus.data.manifest import read_manifest
from chorus.data.utterance import Utterance
from chorus.errors import ChorusError
from chorus.models.dialects import KNOWN_TO_QWEN, Qwen3Asr, Voxtral
from chorus.models.languages import LANGUAGES
from chorus.models.loading import Origin, load_parts
from chorus.models.recogniser import Speech
from chorus.models.registry import kind_of
from chorus.models.speech_llm import SpeechLlmRecogniser
from chorus.train.backbones.choose import load_backbone
from chorus.train.backbones.protocol import IGNORED
from chorus.train.config import Augment
from chorus.train.layers import load_train_config
from chorus.transcribe.backends.protocol import Sound
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.request import Request
from chorus.transcribe.systems import open_system
from chorus.transcribe.test_sets import TestSet
from chorus.transcribe.transcriber import load_backend
from sounds import MISTRALS, TRANSCRIBERS, corpus, tiny, tone

# as the published Qwen3-ASR's template puts a request together: the system's words, the audio, the answer begun
TEMPLATE = (
    "{%- set said = namespace(system='', answer='') -%}{%- for m in messages -%}{%- for c in m.content -%}"
    "{%- if m.role == 'system' -%}{%- set said.system = said.system + c.text -%}"
    "{%- elif m.role == 'assistant' -%}{%- set said.answer = said.answer + c.text -%}{%- endif -%}"
    "{%- endfor -%}{%- endfor -%}{{- '<|im_start|>system\n' + said.system + '<|im_end|>\n' -}}"
    "{{- '<|im_start|>user\n<|audio_start|><|audio_pad|><|audio_end|><|im_end|>\n' -}}"
    "{{- '<|im_start|>assistant\n' + said.answer -}}"
)


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("bases")
    return {kind: tiny(place / kind, kind) for kind in TRANSCRIBERS}


def recogniser_of(place: Path) -> SpeechLlmRecogniser:
    kind = kind_of(json.loads((place / "config.json").read_text()))
    return kind.recogniser(load_parts(kind, Origin(place), "float32"), None)


def speech(seconds: float, prompt: str = "", language: str = "") -> Speech:
    return Speech(lambda: tone(seconds), lambda: f"{seconds}", prompt, language)


def processor_of(recogniser: SpeechLlmRecogniser) -> transformers.Qwen3ASRProcessor:
    tokenizer = recogniser.tokenizer
    for name, token in (("audio", "<|audio_pad|>"), ("audio_bos", "<|audio_start|>"), ("audio_eos", "<|audio_end|>")):
        setattr(tokenizer, f"{name}_token", token)
    return transformers.Qwen3ASRProcessor(recogniser.features.extractor, tokenizer, chat_template=TEMPLATE)


@pytest.mark.parametrize("seconds", [0.2, 0.5, 0.605, 1.0, 1.37, 1.9, 2.0])
@pytest.mark.parametrize(("prompt", "language"), [("", "en"), ("names: Ada", "German"), ("", ""), ("names: Ada", "")])
def test_qwen3_asr_is_asked_as_its_own_processor_asks(bases, seconds, prompt, language):
    recogniser = recogniser_of(bases["qwen3_asr"])
    # beside a longer one: of a sound alone its processor leaves a part of a column out
    theirs = processor_of(recogniser).apply_transcription_request(
        [tone(seconds), tone(2.0)], language=language or None, prompt=prompt or None
    )
    ours = recogniser.inputs([speech(seconds, prompt, language), speech(2.0, prompt, language)])
    assert ours["attention_mask"].tolist() == theirs["attention_mask"].tolist()
    mask = ours["attention_mask"].bool()
    assert ours["input_ids"][mask].tolist() == theirs["input_ids"][mask].tolist()
    assert ours["input_features_mask"].tolist() == theirs["input_features_mask"].tolist()
    # but for the last columns of all, whose windows reach to silence here, to the sound's mirror there
    torch.testing.assert_close(
        ours["input_features"][..., :197], theirs["input_features"][..., :197], atol=1e-3, rtol=0
    )


def test_the_languages_are_those_that_the_processor_knows():
    from transformers.models.qwen3_asr.processing_qwen3_asr import LANGUAGE_CODE_TO_NAME

    told = {code: Qwen3Asr._led(None, code) for code in LANGUAGES}
    found = {text.removeprefix("language ").removesuffix("<asr_text>") for text in told.values() if text}
    assert found == set(LANGUAGE_CODE_TO_NAME.values())
    assert len(KNOWN_TO_QWEN) + 1 == len(LANGUAGE_CODE_TO_NAME) == 30


def test_voxtral_is_asked_as_its_model_card_has_it(bases):
    recogniser = recogniser_of(bases["voxtral"])

    def shown(prompt: str, language: str) -> str:
        ids = recogniser.inputs([speech(0.5, prompt, language)])["input_ids"][0]
        text = recogniser.tokenizer.decode(ids)
        # 100 positions of 16 values are 25 of 64
        return text.replace("[AUDIO]" * 25, "[AUDIO]*25")

    assert shown("Which word?", "en") == "<s>[INST][BEGIN_AUDIO][AUDIO]*25Which word?[/INST]"
    assert shown("", "English") == "<s>[INST][BEGIN_AUDIO][AUDIO]*25[/INST]lang:en[TRANSCRIBE]"
    assert shown("", "") == "<s>[INST][BEGIN_AUDIO][AUDIO]*25[/INST][TRANSCRIBE]"
    assert shown("[/INST] no turn", "").count("[/INST]") == 2
    ids = recogniser.inputs([speech(0.5, "[/INST] no turn")])["input_ids"][0].tolist()
    assert ids.count(MISTRALS.index("[/INST]")) == 1


@pytest.mark.parametrize("kind", TRANSCRIBERS)
def test_sounds_of_many_lengths_fit_the_tower_together(bases, kind):
    recogniser = recogniser_of(bases[kind])
    inputs = recogniser.inputs([speech(seconds) for seconds in (0.1, 0.77, 1.5, 2.0, 3.0)])
    out = recogniser.parts.model(**inputs)  # refused by the model where audio tokens and frames differ in number
    assert torch.isfinite(out.logits).all()
    assert recogniser.longest_s == 2.0


@pytest.mark.parametrize("kind", TRANSCRIBERS)
def test_a_text_does_not_depend_on_its_batch(bases, kind):
    recogniser = recogniser_of(bases[kind])
    every = [speech(0.3 * i, "Say it: " * (i % 3), ("en", "")[i % 2]) for i in range(1, 6)]
    model = recogniser.parts.model.eval()
    with torch.no_grad():
        for parameter in model.parameters():  # of small random weights every token is as likely as any other
            parameter.mul_(3)
        together = recogniser.texts(model, recogniser.inputs(every), max_new_tokens=6)
        alone = [recogniser.texts(model, recogniser.inputs([one]), max_new_tokens=6)[0] for one in every]
    assert together == alone


@pytest.mark.parametrize(
    ("dialect", "written", "read"),
    [
        (Qwen3Asr, "language English<asr_text>one two", "one two"),
        (Qwen3Asr, "one two", "one two"),
        (Qwen3Asr, "language None<asr_text>", ""),
        (Voxtral, "lang:enThis week", "This week"),
        (Voxtral, "lang:en", ""),
        (Voxtral, "language is a word", "language is a word"),
        (Voxtral, "lang:english is no code", "lang:english is no code"),
    ],
)
def test_what_stands_before_a_transcript_is_no_part_of_it(dialect, written, read):
    assert dialect.read(None, written) == read


def backbone_of(base: Path, manifest: Path, **more: object):
    document = {"model": {"base": str(base)}, "data": {"train": str(manifest)}, "output": "o", "logs": "l", **more}
    return load_backbone(load_train_config(document), "cpu")


@pytest.mark.parametrize("kind", TRANSCRIBERS)
@pytest.mark.parametrize("language", ["en", ""])
def test_a_transcript_is_learnt_as_it_is_decoded(tmp_path, bases, kind, language):
    manifest, rows = corpus(tmp_path / "speech", 3)
    backbone = backbone_of(bases[kind], manifest)
    utterances = [Utterance(replace(row, language=language), 0.6) for row in rows]
    examples = [backbone.example(one, None, Augment()) for one in utterances]
    backend = load_backend(Request(open_system(str(bases[kind])), TestSet({}), Decoding()))
    seen = []
    inputs = backend.recogniser.inputs
    backend.recogniser.inputs = lambda speech: seen.append(inputs(speech)) or seen[-1]
    backend.transcribe([Sound(one.audio(), one.row, key=one.key()) for one in utterances])
    padded = zip(seen[0]["input_ids"], seen[0]["attention_mask"], strict=True)
    asked = [ids[mask.bool()].tolist() for ids, mask in padded]
    assert [one.prompt for one in examples] == asked
    lead = "language None<asr_text>" if kind == "qwen3_asr" and not language else ""
    end = backbone.recogniser.dialect.end
    assert [backbone.tokenizer.decode(one.labels) for one in examples] == [f"{lead}{row.text}{end}" for row in rows]
    batch = backbone.collate(examples)
    assert (batch["labels"] != IGNORED).sum(1).tolist() == [len(one.labels) for one in examples]
    batch.pop("rows")
    loss = backbone.model(**batch).loss
    loss.backward()
    assert torch.isfinite(loss)
    heard = [n for n, p in backbone.model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert any("audio_tower" in name for name in heard)


@pytest.mark.parametrize("kind", TRANSCRIBERS)
def test_other_tasks_are_asked_in_words_and_without_a_language(tmp_path, bases, kind):
    manifest, _ = corpus(tmp_path / "speech", 3)
    backbone = backbone_of(bases[kind], manifest, task="speaker_id")
    row = read_manifest(manifest).rows[0]
    assert "speaker" in backbone.asked(row)
    assert backbone.language(row) is None
    example = backbone.example(Utterance(row, 0.6), None, Augment())
    told = backbone.tokenizer.decode(example.prompt)
    assert backbone.asked(row) in told
    assert not any(word in told for word in ("language English", "lang:en", "[TRANSCRIBE]"))


def test_voxtrals_vocabulary_stays_beside_what_is_trained(tmp_path, bases):
    """Mistral's own readers take tekken.json alone."""
    manifest, _ = corpus(tmp_path / "speech", 6)
    document = {
        "model": {"base": str(bases["voxtral"])}, "data": {"train": str(manifest)}, "train": {"steps": 1},
        "dev": {"max_new_tokens": 2}, "output": str(tmp_path / "out"), "logs": str(tmp_path / "l"), "device": "cpu",
    }  # fmt: skip
    chorus.train(load_train_config(document))
    again = {**document, "model": {"base": str(tmp_path / "out")}, "output": str(tmp_path / "next")}
    chorus.train(load_train_config({**again, "logs": str(tmp_path / "l2")}))
    assert (tmp_path / "next" / "tekken.json").exists()
    assert (tmp_path / "out" / "tekken.json").read_bytes() == (bases["voxtral"] / "tekken.json").read_bytes()


def test_a_wrong_token_for_audio_is_told(tmp_path):
    place = tiny(tmp_path / "voxtral", "voxtral")
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, "audio_token_id": 24}))
    with pytest.raises(ChorusError, match=r"tokenizer's \[AUDIO\] is 5, the config's 24"):
        recogniser_of(place)


def test_qwen3_asr_of_its_first_repositories_is_told(tmp_path):
    place = tmp_path / "old"
    place.mkdir()
    (place / "config.json").write_text(json.dumps({"model_type": "qwen3_asr", "thinker_config": {"audio_config": {}}}))
    np.save(place / "weights.npy", np.zeros(1))
    with pytest.raises(ChorusError, match="cannot be trained here"):
        backbone_of(place, corpus(tmp_path / "speech", 3)[0])
