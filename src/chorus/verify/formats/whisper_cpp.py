"""whisper.cpp as what a ggml file is verified in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from chorus.errors import some
from chorus.transcribe.native.remote import NativeWhisper
from chorus.verify.front_end import TEXTS
from chorus.verify.protocol import Client, FrontEndOf
from chorus.verify.verdict import Verdict, judged

SPECTRUM = 1e-3  # of log-mel, whose range is about 2: float32 transforms of two makes
EDGE = 3  # frames at the end of the sound, where the two fill up differently


def client(path: Path, tokens: Sequence[bytes]) -> Client:
    """The runtime for one file, whose text tokens are these."""

    def front_end(source: FrontEndOf) -> Iterator[Verdict]:
        with NativeWhisper(path) as native:
            yield from _front_end(native, tokens, source)

    return Client(
        "whisper.cpp", "verify", lambda: find_spec("_pywhispercpp") is not None, lambda: NativeWhisper(path), front_end
    )


def _front_end(native: NativeWhisper, table: Sequence[bytes], source: FrontEndOf) -> Iterator[Verdict]:
    known = {name: i for name, i in native.special_ids.items() if name in source.tokens}
    wrong = [f"{name} is {i}, in the tokenizer {source.tokens[name]}" for name, i in known.items()
             if source.tokens[name] != i]  # fmt: skip
    yield judged(2, "special tokens in whisper.cpp", some(wrong, 2), f"{len(known)} alike", tokens=len(known))
    mine, theirs = native.log_mel(source.sound), source.log_mel(source.sound)
    frames = len(source.sound) // 160 - EDGE
    worst = float(np.abs(mine[:, :frames] - theirs[:, :frames]).max()) if len(mine) == len(theirs) else float("inf")
    problem = "" if worst <= SPECTRUM else f"off by {worst:.2g}; {len(mine)} bins, the extractor makes {len(theirs)}"
    yield judged(2, "log-mel spectrum in whisper.cpp", problem, f"at most {worst:.1g} off", worst=worst)
    cut = native.tokens(TEXTS)
    other = [repr(text[:20]) for text, ids in zip(TEXTS, cut, strict=True)
             if b"".join(table[i] for i in ids) != text.encode()]  # fmt: skip
    alike = sum(ids == source.ids(text) for text, ids in zip(TEXTS, cut, strict=True))
    yield judged(
        2, "texts in whisper.cpp", f"others of its tokens: {some(other)}" if other else "",
        f"{len(TEXTS)} texts; {alike} cut as the tokenizer cuts them, the others longest token first", alike=alike,
    )  # fmt: skip
