"""Every kind of model keeps its contract, on a tiny model with random weights (Whisper: the demo's)."""

from __future__ import annotations

import pytest

import chorus.testing
from chorus.models.recogniser import Transcript
from chorus.models.registry import KINDS
from sounds import BASE, corpus, mms, tiny

MODELS = {
    "whisper": "whisper", "wav2vec2": "ctc", "wav2vec2_bert": "ctc", "mms": "ctc", "qwen2_audio": "speech_llm",
    "omni": "speech_llm", "qwen2": "causal", "qwen3_asr": "qwen3_asr", "voxtral": "voxtral",
}  # fmt: skip


def test_every_kind_that_is_trained_or_transcribes_is_held_to_it():
    assert set(MODELS.values()) == {kind.name for kind in KINDS if kind.backbone or kind.decoder}


@pytest.mark.parametrize("name", MODELS)
def test_a_kind_keeps_its_contract(tmp_path, name):
    manifest, _ = corpus(tmp_path / "speech", 6)
    base = BASE if name == "whisper" else (mms(tmp_path / name) if name == "mms" else tiny(tmp_path / name, name))
    assert chorus.testing.check_kind(base, manifest) == 4


def test_what_breaks_the_contract_is_told(tmp_path, monkeypatch):
    from chorus.models.ctc import CtcRecogniser
    from chorus.train.backbones.ctc import CtcBackbone

    manifest, _ = corpus(tmp_path / "speech", 3)
    base = tiny(tmp_path / "w", "wav2vec2_bert")

    def broken(target, attribute, value):
        with monkeypatch.context() as patch:
            patch.setattr(target, attribute, value)
            with pytest.raises(AssertionError) as error:
                chorus.testing.check_kind(base, manifest)
        return str(error.value)

    def counting(self, model, inputs, **more):
        return [Transcript(f"{len(inputs['attention_mask'])} {one.text}") for one in texts(self, model, inputs)]

    texts = CtcRecogniser.texts
    same = broken(CtcBackbone, "transcribe", lambda self, model, rows, **more: ["x"] * len(rows))
    assert "training measures ['x', 'x'], evaluation decodes" in same
    assert "called unfit: ['too long'" in broken(CtcBackbone, "misfit", lambda self, row: "too long")
    assert "another text than in a batch" in broken(CtcRecogniser, "texts", counting)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(AssertionError, match="no kind recognises"):
        chorus.testing.check_kind(tmp_path / "other", manifest)
