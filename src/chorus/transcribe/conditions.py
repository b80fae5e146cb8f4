"""The same recordings made harder: noise at a level, a telephone band, a room, a codec, another speed.

`noise:10db`, `pink-noise:5db`, `telephone`, `reverb:0.4`, `codec:opus`, `speed:1.2`; several: `telephone+noise:15db`.
An utterance's draw depends on the condition and on its own audio, so that every system is given the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chorus.data.effect_names import effect_of
from chorus.errors import UsageError
from chorus.identity import number_of
from chorus.lazy import lazy

if TYPE_CHECKING:
    import numpy

    from chorus.data.audio import Audio
else:
    numpy = lazy("numpy")

CLEAN = "clean"
VOICES = ("child", "elder")  # what only a synthesiser can do


def check_condition(text: str) -> str:
    """The condition, if there is such a one; `UsageError` says what is wrong."""
    if text == CLEAN:
        return text
    for part in text.split("+"):
        try:
            effect_of(part)
        except ValueError as error:
            raise UsageError(f"--condition {text}: {error}") from None
        if part in VOICES:
            raise UsageError(f"--condition {text}: {part} is for synthetic speech only")
    return text


def under(audio: Audio, condition: str, key: str) -> Audio:
    """The audio under a condition; `key` is what the utterance is by content."""
    if condition == CLEAN:
        return audio
    rng = numpy.random.default_rng(number_of(f"{condition}/{key}"))
    for part in condition.split("+"):
        audio = effect_of(part)(audio, rng)
    return audio
