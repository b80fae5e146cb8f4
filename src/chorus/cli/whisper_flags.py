"""The flags of openai-whisper's `whisper` that `chorus transcribe` understands, and those that mean nothing here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., object])

NOTHING_DRAWN = "nothing is drawn: the temperature is 0"
BY_WINDOW = "each window is decoded by itself, and kept"
# flag -> (why it has no effect, values that ask for what is done anyway)
IDLE = {
    "temperature": (NOTHING_DRAWN, ("0", "0.0")),
    "temperature_increment_on_fallback": (NOTHING_DRAWN, ("None", "0")),
    "best_of": (NOTHING_DRAWN, ("1", "None")),
    "patience": ("beams end as they do at patience 1", ("1", "1.0", "None")),
    "length_penalty": ("beams are ranked by their mean", ("None",)),
    "suppress_tokens": ("the model's own list is taken", ("-1",)),
    "carry_initial_prompt": ("the runtime decides it", ()),
    "condition_on_previous_text": (BY_WINDOW, ("False",)),
    "compression_ratio_threshold": (BY_WINDOW, ("None",)),
    "logprob_threshold": (BY_WINDOW, ("None",)),
    "no_speech_threshold": (BY_WINDOW, ("None",)),
    "prepend_punctuations": ("the usual marks are taken", ()),
    "append_punctuations": ("the usual marks are taken", ()),
    "threads": ("all cores, or OMP_NUM_THREADS", ("0",)),
    "clip_timestamps": ("the whole recording is heard", ("0",)),
    "hallucination_silence_threshold": ("--segments vad leaves silence out", ("None",)),
    "model_dir": ("the hub's cache keeps models", ("None",)),
}


class OrNone(click.ParamType["int | None"]):
    """A whole number from `least` on, or the None with which `whisper`'s own callers leave one out."""

    name = "integer"

    def __init__(self, least: int) -> None:
        self.range = click.IntRange(least)

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        return None if value == "None" else self.range(value, param, ctx)


def whisper_flags(command: F) -> F:
    """Add them, hidden: `whisper` gives every one of its flags a value."""
    for name in reversed(IDLE):
        command = click.option(f"--{name}", name, hidden=True)(command)
    for name, into in (("word_timestamps", "whisper_words"), ("verbose", "verbose"), ("fp16", "fp16")):
        command = click.option(f"--{name}", into, type=click.BOOL, hidden=True)(command)
    return click.option("--highlight_words", "whisper_highlight", type=click.BOOL, hidden=True)(command)


def given_to_whisper(flags: dict[str, Any]) -> str:
    """Put the values where ours are, and name in one line what has no effect; empty where there is none."""
    words, highlight = flags.pop("whisper_words"), flags.pop("whisper_highlight")
    flags["words"] = flags["words"] or bool(words)
    flags["highlight_words"] = flags["highlight_words"] or bool(highlight)
    told = [
        f"--{name} {value} ({why})"
        for name, (why, same) in IDLE.items()
        if (value := flags.pop(name)) is not None and value not in same
    ]
    flags["quiet"] = flags["quiet"] or flags.pop("verbose") is False
    half = flags.pop("fp16")
    if half and flags["dtype"] is None:
        # `whisper` itself works in float32 on a CPU, whatever it is told
        if flags["device"].startswith("cuda"):
            flags["dtype"] = "float16"
        else:
            told.append("--fp16 True (float32 but on --device cuda; --dtype float16 insists)")
    return f"note: without effect here: {', '.join(told)}" if told else ""
