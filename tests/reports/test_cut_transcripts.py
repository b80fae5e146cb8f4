"""Transcripts that stop at a limit: the model's own where none is given, and counted where it is reached."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from chorus.evaluate.describe import main_table
from chorus.evaluate.run import evaluate
from chorus.models.speech_llm import NEW_TOKENS, SpeechLlmRecogniser
from chorus.transcribe.backends.protocol import Sound
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.request import Request
from chorus.transcribe.systems import open_system
from chorus.transcribe.test_sets import TestSet
from chorus.transcribe.transcriber import load_backend
from sounds import BASE, corpus, tiny, tone


def backend(model, **settings):
    return load_backend(Request(open_system(str(model)), TestSet({}), Decoding(**settings)))


@pytest.mark.reported("cut-transcript")
@pytest.mark.parametrize("beam", [1, 2])
def test_a_whisper_writes_as_much_as_it_has_room_for(tmp_path, beam):
    _, rows = corpus(tmp_path, 1)
    sound = Sound(tone(0.6), rows[0], "x")
    endless = backend(BASE, window_s=1, beam=beam)
    positions = endless.model.config.max_target_positions
    settings = endless.model.generation_config
    # neither its end nor any other control: it goes on and on
    controls = range(settings.eos_token_id, endless.model.config.vocab_size)
    settings.suppress_tokens = [*(settings.suppress_tokens or []), *controls]
    (found,) = endless.transcribe([sound])
    written = len(endless.tokenizer.encode(f" {found.text}", add_special_tokens=False))
    assert found.cut
    assert endless._room(4, None) == positions - 5
    assert written > 200 or positions < 250


@pytest.mark.reported("cut-transcript")
@pytest.mark.parametrize(
    ("settings", "cut"), [({"max_new_tokens": 1}, True), ({}, False), ({"prompt": "a word"}, False)]
)
@pytest.mark.parametrize("beam", [1, 2])
def test_only_what_was_cut_is_called_so(tmp_path, settings, cut, beam):
    _, rows = corpus(tmp_path, 2)
    chosen = backend(BASE, window_s=1, beam=beam, **settings)
    end = chosen.model.generation_config.eos_token_id
    if not cut:
        with torch.no_grad():  # as a trained model comes to its end
            chosen.model.proj_out.bias = torch.nn.Parameter(torch.zeros(chosen.model.config.vocab_size))
            chosen.model.proj_out.bias[end] = 1e4
        chosen.model.generation_config.begin_suppress_tokens = []
    found = chosen.transcribe([Sound(tone(0.6, seed=i), row, f"{i}") for i, row in enumerate(rows)])
    assert [one.cut for one in found] == [cut, cut]


@pytest.mark.reported("cut-transcript")
def test_cut_answers_stand_in_rows_summary_and_table(tmp_path):
    manifest, _ = corpus(tmp_path / "speech", 3)
    made = evaluate(str(BASE), manifest, tmp_path / "e", decoding=Decoding(max_new_tokens=1, window_s=1), device="cpu")
    assert [row.get("cut") for row in made.rows] == [True] * len(made.rows)
    assert made.summary["all"]["cut"] == len(made.rows)
    table = main_table([made])
    assert table.rows[0][table.columns.index("cut")] == str(len(made.rows))
    whole = replace(made, summary={**made.summary, "all": {**made.summary["all"], "cut": 0}})
    assert "cut" not in main_table([whole]).columns


@pytest.mark.reported("cut-transcript")
def test_a_speech_llm_is_asked_for_all_that_thirty_seconds_can_hold(tmp_path, monkeypatch):
    _, rows = corpus(tmp_path / "speech", 1)
    asked = []
    chosen = backend(tiny(tmp_path / "q", "qwen2_audio"))
    model = chosen.parts.model

    def generate(**given):
        asked.append(given["max_new_tokens"])
        answers = torch.tensor([[65, 66, given["eos_token_id"]], [65, 66, 67]][len(asked) - 1 :][:1])
        return torch.cat([given["input_ids"], answers], dim=1)

    monkeypatch.setattr(model, "generate", generate)
    sounds = [Sound(tone(0.6), rows[0], "x")]
    assert [chosen.transcribe(sounds)[0].cut for _ in range(2)] == [False, True]
    assert asked == [NEW_TOKENS] * 2
    assert isinstance(chosen.recogniser, SpeechLlmRecogniser)
