"""Effects by their names in recipes and conditions: `noise:15db`, `telephone`, `reverb:0.4`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from chorus.data import effects
from chorus.errors import nearest

if TYPE_CHECKING:
    from numpy.random import Generator

    from chorus.data.audio import Audio

Effect = Callable[["Audio", "Generator"], "Audio"]
NAMED = ("telephone", "noise", "pink-noise", "reverb", "codec", "speed", "gain", "child", "elder")


def effect_of(text: str) -> Effect:
    """An effect by its name in a recipe: `noise:15db`. `ValueError` says what is wrong with it.

    >>> effect_of("nois:15db")
    Traceback (most recent call last):
    ValueError: "nois:15db": unknown effect; did you mean "noise"?
    """
    name, _, value = text.partition(":")
    if name not in NAMED:
        raise ValueError(f'"{text}": unknown effect{nearest(name, NAMED)}')
    if name in ("child", "elder"):  # of the voice itself
        return lambda audio, rng: audio
    if name == "telephone":
        return lambda audio, rng: effects.telephone(audio)
    if name == "codec":
        if value not in effects.CODECS:
            raise ValueError(f'"{text}": unknown codec{nearest(value, effects.CODECS)}')
        return lambda audio, rng: effects.through_codec(audio, value)
    number = _number(text, value)
    if name == "reverb":
        return lambda audio, rng: effects.reverberate(audio, number, rng)
    if name == "speed":
        return lambda audio, rng: effects.change_speed(audio, number)
    if name == "gain":
        return lambda audio, rng: effects.change_gain(audio, number)
    colour: effects.Colour = "pink" if name == "pink-noise" else "white"
    return lambda audio, rng: effects.add_noise(audio, number, rng, colour)


def _number(text: str, value: str) -> float:
    try:
        return float(value.lower().removesuffix("db").removesuffix("s"))
    except ValueError:
        raise ValueError(f'"{text}": needs a number, as in noise:15db, reverb:0.4, speed:1.1') from None
