"""Where sherpa-onnx lets a timestamp stand, and the segments that it makes of them.

Facts: sherpa-onnx/csrc/offline-whisper-timestamp-rules.cc; but for words none is suppressed that are openai-whisper's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LATEST = 50  # steps of 20 ms that the first timestamp may lie from the beginning
STEP_S = 0.02


def ruled(
    logits: NDArray[np.float32], written: Sequence[int], *, first: int, without: int, end: int
) -> NDArray[np.float32]:  # fmt: skip
    """Logits after what was `written` of a text, with -inf where nothing may stand.

    first: <|0.00|>; without: <|notimestamps|>; end: the token of the end.
    """
    found = logits.copy()
    found[without] = -np.inf
    last = bool(written) and written[-1] >= first
    before = len(written) < 2 or written[-2] >= first
    times = [token for token in written if token >= first]
    if not written:
        found[:first] = -np.inf
        found[first + LATEST + 1 :] = -np.inf
    elif last and before:  # one that begins a segment: a text follows
        found[first:] = -np.inf
    elif last:  # one that ends it: the next begins, or all ends
        found[:end] = found[end + 1 : first] = -np.inf
    if times:  # never backwards; the end of a segment may be the beginning of the next
        closing = last and not before
        found[first : times[-1] + (0 if closing else 1)] = -np.inf
    if written and not last and _likelier(found, first):
        found[:first] = -np.inf
    return found


def _likelier(logits: NDArray[np.float32], first: int) -> bool:
    """Whether all timestamps together are likelier than any token of a text."""
    times = logits[first:]
    top = times.max()
    if top == -np.inf:
        return False
    return bool(top + np.log(np.exp(times - top).sum()) > logits[:first].max())


def segments_of(tokens: Sequence[int], first: int, seconds: float) -> list[tuple[float, float, list[int]]]:
    """(begin, end, tokens) between two timestamps; one that nothing ends goes on to the end of the sound."""
    found: list[tuple[float, float, list[int]]] = []
    start: float | None = None
    held: list[int] = []
    for token in tokens:
        if token < first:
            held += [token] if start is not None else []
            continue
        time = (token - first) * STEP_S
        if start is not None and held:
            found.append((start, time, held))
        start, held = time, []
    if start is not None and held:
        found.append((start, max(start, seconds), held))
    return found
