"""Synthetic speech from a recipe: domains that differ by what is said, by whom, and over which line.

    seed: 7
    rows: {train: 80, dev: 10, test: 10}     # of each domain
    domains:
      kitchen:
        language: pt                          # also the voice, unless `voices` says more
        voices: [pt+m1, pt+f2]                # espeak-ng's, with variants; each is a speaker
        speed_wpm: [140, 190]                 # drawn evenly for each utterance
        pitch: [35, 65]
        templates: ["liga {device} {room}"]   # or texts: [...], or texts_file: FILE, one a line
        words: {device: [a luz, o forno], room: [da sala, da cozinha]}
        effects: [telephone, "noise:15db", "reverb:0.4", "codec:opus", "speed:1.1", child, elder]

The same recipe gives the same bytes: every utterance draws from its own stream, seeded by domain, split and number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from chorus.data import effects
from chorus.data.audio import RATE, resample, write_flac
from chorus.data.effect_names import effect_of
from chorus.data.espeak import Speaker, speaker
from chorus.data.manifest import Row, write_manifest
from chorus.errors import DataError, RecipeError
from chorus.files import read_lines
from chorus.identity import number_of
from chorus.lazy import lazy
from chorus.plain import JsonObject
from chorus.progress import Progress
from chorus.settings import Strict, read_document, validated

if TYPE_CHECKING:
    import numpy as np
    from numpy.random import Generator

    from chorus.data.audio import Audio
else:
    np = lazy("numpy")

PAD_S = 0.1  # of silence before and after
PEAK = 0.7
LOUDEST_COMBINATIONS = 200_000  # templates are unfolded up to here


class RowCounts(Strict):
    """How many utterances of each domain."""

    train: int = Field(default=80, ge=0)
    dev: int = Field(default=10, ge=0)
    test: int = Field(default=10, ge=0)


class Domain(Strict):
    """One domain: its texts, its voices, its line."""

    language: str
    voices: list[str] = Field(default_factory=list)
    speed_wpm: tuple[int, int] = (150, 180)
    pitch: tuple[int, int] = (40, 60)
    texts: list[str] = Field(default_factory=list)
    texts_file: str | None = None
    templates: list[str] = Field(default_factory=list)
    words: dict[str, list[str]] = Field(default_factory=dict)
    effects: list[str] = Field(default_factory=list)
    rows: RowCounts | None = None


class SynthRecipe(Strict):
    """A whole recipe, as written."""

    seed: int = 0
    rows: RowCounts = Field(default_factory=RowCounts)
    domains: dict[str, Domain] = Field(min_length=1)


@dataclass(frozen=True)
class SpokenLine:
    """One utterance to make: everything but the sound."""

    name: str
    domain: str
    split: str
    text: str
    voice: str
    language: str
    effects: tuple[str, ...]
    speed_wpm: int
    pitch: int
    seed: int


def load_synth_recipe(source: str | Path | JsonObject) -> tuple[SynthRecipe, Path]:
    """The recipe and the folder that its `texts_file`s start at. `RecipeError` with every problem found."""
    document, name, home = read_document(source)
    recipe = validated(SynthRecipe, document, source=name)
    problems = []
    for domain, settings in recipe.domains.items():
        if not re.fullmatch(r"[\w.-]+", domain) or domain.startswith("."):
            problems.append(f"domains.{domain}: names a folder; letters, digits, _ and - only")
        if not (settings.texts or settings.texts_file or settings.templates):
            problems.append(f"domains.{domain}: needs texts, texts_file or templates")
        for key in ("speed_wpm", "pitch"):
            low, high = getattr(settings, key)
            if low > high:
                problems.append(f"domains.{domain}.{key}: {low} is more than {high}")
        for effect in settings.effects:
            try:
                effect_of(effect)
            except ValueError as error:
                problems.append(f"domains.{domain}.effects: {error}")
        for template in settings.templates:
            missing = [w for w in re.findall(r"\{(\w+)\}", template) if not settings.words.get(w)]
            if missing:
                problems.append(f"domains.{domain}.templates: no words for {{{missing[0]}}}")
    if problems:
        raise RecipeError(problems, source=name)
    return recipe, home


def synthesise(
    source: str | Path | JsonObject,
    out: Path,
    *,
    progress: Progress = lambda done, total: None,
) -> list[Row]:
    """Speak the recipe into `out`: FLAC files by domain and split, and manifest.csv. Returns the rows."""
    recipe, home = load_synth_recipe(source)
    utterances = list(plan_utterances(recipe, home))
    rows = []
    with speaker() as voice:
        for utterance in utterances:
            audio = render(utterance, voice)
            write_flac(out / f"{utterance.name}.flac", audio)
            rows.append(
                Row(
                    f"{utterance.name}.flac", utterance.text, utterance.language, utterance.voice, utterance.domain,
                    utterance.split, round(len(audio) / RATE, 3), root=out,
                )
            )  # fmt: skip
            progress(len(rows), len(utterances))
    write_manifest(rows, out / "manifest.csv")
    return rows


def plan_utterances(recipe: SynthRecipe, home: Path) -> Iterator[SpokenLine]:
    """What will be said: texts without repetition across splits as long as there are enough of them."""
    for name, domain in recipe.domains.items():
        counts = domain.rows or recipe.rows
        rng = _stream(recipe.seed, name)  # another domain in the recipe changes nothing here
        texts = _texts(name, domain, home)
        order = [texts[i] for i in rng.permutation(len(texts))]  # templates come sorted by their first word
        wanted = [("train", counts.train), ("dev", counts.dev), ("test", counts.test)]
        shares = _shares(order, wanted)
        voices = domain.voices or [domain.language]
        for split, count in wanted:
            for i in range(count):
                draw = _stream(recipe.seed, name, split, i)
                yield SpokenLine(
                    name=f"{name}/{split}-{i:05d}",
                    domain=name,
                    split=split,
                    text=shares[split][i % len(shares[split])],
                    voice=voices[int(draw.integers(len(voices)))],
                    language=domain.language,
                    effects=tuple(domain.effects),
                    speed_wpm=int(draw.integers(domain.speed_wpm[0], domain.speed_wpm[1] + 1)),
                    pitch=int(draw.integers(domain.pitch[0], domain.pitch[1] + 1)),
                    seed=int(draw.integers(2**31)),
                )


def _shares(texts: list[str], wanted: list[tuple[str, int]]) -> dict[str, list[str]]:
    """The texts of each split: apart where there are at least as many as splits, else the same for all."""
    asked = [(split, count) for split, count in wanted if count]
    if len(texts) < 2 * len(asked):
        return {split: texts for split, _ in wanted}
    total = sum(count for _, count in asked)
    found: dict[str, list[str]] = {split: texts for split, _ in wanted}
    first = 0
    for i, (split, count) in enumerate(reversed(asked)):  # the small ones first, train gets the rest
        last = len(asked) - 1 == i
        size = len(texts) - first if last else max(1, min(count, len(texts) * count // total))
        found[split] = texts[first : first + size]
        first += size
    return found


def _texts(name: str, domain: Domain, home: Path) -> list[str]:
    texts = list(domain.texts)
    if domain.texts_file:
        path = home / domain.texts_file
        try:
            lines = (line.strip() for _, line in read_lines(path, raises=DataError, what="file of texts"))
            texts += [line for line in lines if line]
        except DataError as error:
            raise RecipeError([f"domains.{name}.texts_file: {error.message}"]) from None
    for template in domain.templates:
        slots = re.findall(r"\{(\w+)\}", template)
        for i, filling in enumerate(product(*(domain.words[slot] for slot in slots))):
            if i >= LOUDEST_COMBINATIONS:
                break
            words = iter(filling)
            texts.append(re.sub(r"\{\w+\}", lambda _: next(words), template))
    return list(dict.fromkeys(texts))


def render(utterance: SpokenLine, voice: Speaker) -> Audio:
    """The sound of an utterance: spoken, padded, its effects in order, its peak at 0.7."""
    rng = np.random.default_rng(utterance.seed)
    speed, pitch = utterance.speed_wpm, utterance.pitch
    shift = 1.0
    if "child" in utterance.effects:  # a shorter vocal tract: spoken slower, then played faster and higher
        shift, speed, pitch = 1.22, round(speed / 1.3), min(99, pitch + 20)
    if "elder" in utterance.effects:
        speed, pitch = round(speed * 0.75), max(0, pitch - 12)
    spoken = voice.say(utterance.text, voice=utterance.voice, rate_wpm=max(80, speed), pitch=pitch, seed=utterance.seed)
    audio = resample(spoken, voice.rate * shift, RATE) if shift != 1.0 else resample(spoken, voice.rate, RATE)
    if "elder" in utterance.effects:
        audio = effects.tilt(_tremble(audio, rng), -2.0)
    # before the effects: a room's tail and a line's noise go on where nobody speaks
    audio = np.pad(audio, int(PAD_S * RATE)).astype(np.float32)
    audio = audio * (PEAK / max(1e-6, float(np.abs(audio).max())))
    for effect in utterance.effects:
        audio = effect_of(effect)(audio, rng)
    # effects may go beyond full scale, where FLAC would clip; made quieter only, for a gain is an effect too
    return audio * min(1.0, 0.99 / max(1e-6, float(np.abs(audio).max())))


def _tremble(audio: Audio, rng: Generator) -> Audio:
    """A slow, irregular tremor of loudness, as in old voices."""
    time = np.arange(len(audio)) / RATE
    phase = rng.uniform(0, 2 * np.pi)
    return (audio * (1 + 0.25 * np.sin(2 * np.pi * rng.uniform(4.5, 6.5) * time + phase))).astype(np.float32)


def _stream(*parts: object) -> Generator:
    """A generator seeded by what it is for."""
    generator: Generator = np.random.default_rng(number_of("/".join(map(str, parts))))
    return generator
