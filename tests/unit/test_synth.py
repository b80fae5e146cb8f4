"""Synthetic speech: the same recipe gives the same bytes; domains differ as the recipe says."""

from __future__ import annotations

import time

import numpy as np
import pytest
import yaml

from chorus.data.audio import RATE, read_audio
from chorus.data.effect_names import effect_of
from chorus.data.manifest import read_manifest
from chorus.data.synth import load_synth_recipe, plan_utterances, synthesise
from chorus.errors import DataError, MissingExtraError, RecipeError

RECIPE = {
    "seed": 7,
    "rows": {"train": 4, "dev": 2, "test": 2},
    "domains": {
        "kitchen": {
            "language": "pt",
            "voices": ["pt+m1", "pt+f2"],
            "templates": ["liga {device} {room}"],
            "words": {"device": ["a luz", "o forno", "a música"], "room": ["da sala", "da cozinha"]},
            "effects": ["telephone", "noise:15db"],
        },
        "kids": {"language": "de", "texts": ["hallo welt", "guten morgen"], "effects": ["child", "reverb:0.3"]},
        "old": {"language": "ar", "texts": ["مرحبا بكم"], "effects": ["elder", "codec:opus"], "rows": {"train": 1}},
    },
}
espeak = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("espeakng_loader") is None,
    reason='speech synthesis needs pip install "chorus-merge[synth]"',
)


@espeak
def test_the_same_recipe_gives_the_same_bytes(tmp_path):
    rows = synthesise(RECIPE, tmp_path / "a")
    time.sleep(1.1)  # the library's own noise is seeded by the second, unless told
    synthesise(RECIPE, tmp_path / "b")
    names = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(names) == len(rows) + 1 == 8 + 8 + 21 + 1
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    other = synthesise({**RECIPE, "seed": 8}, tmp_path / "c")
    assert [r.text for r in other] != [r.text for r in rows]


@espeak
def test_the_manifest_tells_what_was_said_and_by_whom(tmp_path):
    synthesise(RECIPE, tmp_path)
    rows = read_manifest(tmp_path / "manifest.csv").rows
    assert {r.language for r in rows} == {"pt", "de", "ar"}
    assert {r.speaker for r in rows if r.domain == "kitchen"} == {"pt+m1", "pt+f2"}
    for row in rows:
        audio = read_audio(row.audio)
        assert len(audio) / RATE == pytest.approx(row.duration, abs=0.01)
        assert 0.3 < np.abs(audio).max() <= 1.0
    kitchen = {s: {r.text for r in rows if r.domain == "kitchen" and r.split == s} for s in ("train", "dev", "test")}
    assert not kitchen["train"] & kitchen["test"]
    assert not kitchen["dev"] & kitchen["test"]


@espeak
def test_a_voice_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="espeak-ng has no voice 'xx\\+q9'"):
        synthesise({"domains": {"d": {"language": "xx", "voices": ["xx+q9"], "texts": ["a"]}}}, tmp_path)


def test_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "espeakng_loader", None)
    with pytest.raises(MissingExtraError) as error:
        synthesise(RECIPE, tmp_path)
    assert error.value.exit_code == 3
    assert 'pip install "chorus-merge[synth]"' in error.value.hint


def test_speeds_and_pitches_lie_between_what_was_asked():
    recipe, home = load_synth_recipe(
        {"rows": {"train": 200, "dev": 0, "test": 0},
         "domains": {"d": {"language": "en", "texts": ["a", "b"], "speed_wpm": [120, 130], "pitch": [20, 30]}}}
    )  # fmt: skip
    made = list(plan_utterances(recipe, home))
    assert {u.speed_wpm for u in made} == set(range(120, 131))
    assert {u.pitch for u in made} == set(range(20, 31))


def test_texts_from_a_file_beside_the_recipe(tmp_path):
    (tmp_path / "texts.txt").write_text("um\n\ndois\num\n")
    (tmp_path / "r.yml").write_text(yaml.safe_dump({"domains": {"d": {"language": "pt", "texts_file": "texts.txt"}}}))
    recipe, home = load_synth_recipe(tmp_path / "r.yml")
    assert {u.text for u in plan_utterances(recipe, home)} == {"um", "dois"}


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        ({"language": "pt"}, "domains.d: needs texts, texts_file or templates"),
        ({"language": "pt", "texts": ["a"], "effect": []}, 'domains.d.effect: unknown key; did you mean "effects"'),
        ({"language": "pt", "texts": ["a"], "effects": ["nois:3"]}, 'unknown effect; did you mean "noise"'),
        ({"language": "pt", "texts": ["a"], "effects": ["noise"]}, "needs a number"),
        ({"language": "pt", "texts": ["a"], "effects": ["codec:mp4"]}, 'unknown codec; did you mean "mp3"'),
        ({"language": "pt", "templates": ["{who} sings"]}, "no words for {who}"),
        ({"language": "pt", "texts": ["a"], "pitch": [60, 40]}, "60 is more than 40"),
        ({"texts": ["a"]}, "domains.d.language: missing"),
    ],
)
def test_recipes_that_are_wrong(domain, message):
    with pytest.raises(RecipeError) as error:
        load_synth_recipe({"domains": {"d": domain}})
    assert message in error.value.message


def test_a_domain_names_a_folder_inside():
    with pytest.raises(RecipeError, match="names a folder"):
        load_synth_recipe({"domains": {"../d": {"language": "pt", "texts": ["a"]}}})


def test_every_effect_changes_the_sound_and_keeps_it_finite():
    audio = np.sin(np.arange(8000) / 9).astype(np.float32)
    names = ["telephone", "noise:10db", "pink-noise:10", "reverb:0.2s", "codec:mulaw", "speed:1.1", "gain:-6db"]
    for name in names:
        changed = effect_of(name)(audio, np.random.default_rng(0))
        assert np.isfinite(changed).all()
        assert len(changed) != len(audio) or not np.allclose(changed, audio), name
