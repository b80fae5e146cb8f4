"""L3: the logits of an export in its runtime beside the source's, each position given the same tokens before it.

Softmax does not see what all logits of a position have in common, and runtimes differ most in that: differences are
taken from their median. Single positions are far off where many tokens are as likely: bounds are on means over
positions, and a token that the source likes about as well is no other choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from chorus.lazy import lazy
from chorus.verify.protocol import Native
from chorus.verify.verdict import Verdict, fails, holds, judged

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chorus.verify.original import Forcing
    from chorus.verify.protocol import Floats
else:
    np = lazy("numpy")


@dataclass(frozen=True)
class Gate:
    """Bounds over all positions: mean difference of logits, and mean Kullback-Leibler divergence in nats."""

    difference: float
    divergence: float


# about three times the worst of what was measured on whisper-tiny.en and the digits' base (docs/export.md has both)
PLAIN, Q8, Q5, Q4, LOW = Gate(0.04, 2e-4), Gate(0.15, 2e-3), Gate(1.0, 0.07), Gate(2.0, 0.3), Gate(4.0, 1.5)
INT8 = Gate(0.3, 0.01)  # a scale a row, and what it is multiplied with is rounded to 8 bits as well
GATES = {
    "f32": PLAIN, "f16": PLAIN, "bf16": PLAIN, "float32": PLAIN, "float16": PLAIN, "bfloat16": PLAIN,
    "int8": INT8, "int8_float32": INT8, "int8_float16": INT8, "int8_bfloat16": INT8, "int16": Q8, "q8_0": Q8,
    "q6_k": Q8, "q5_0": Q5, "q5_1": Q5, "q5_k": Q5, "q4_0": Q4, "q4_1": Q4, "q4_k": Q4, "iq4_nl": Q4,
}  # fmt: skip
TIE = 0.1  # of a logit: rounding to bfloat16 was seen to turn a choice between tokens 0.03 apart
NEVER = 0.05  # of the probability: timestamps together have less where one must stand, of a model that was taught none


@dataclass(frozen=True)
class Closeness:
    """Two runs over some positions; `turned` are those where the source clearly prefers another token."""

    positions: int
    agree: int
    turned: int
    difference: float
    most: float
    divergence: float


def closeness(pairs: Sequence[tuple[Floats, Floats]]) -> Closeness:
    """Of (the source's, the export's) logits, each [positions, vocabulary]."""
    theirs = np.concatenate([one for one, _ in pairs]).astype(np.float64)
    mine = np.concatenate([other for _, other in pairs]).astype(np.float64)
    apart = mine - theirs
    # the median: a few tokens that are far off would move the mean
    apart -= np.median(apart, axis=-1, keepdims=True)
    likely, other = _log_probabilities(theirs), _log_probabilities(mine)
    divergence = (np.exp(likely) * (likely - other)).sum(-1)
    chosen = mine.argmax(-1)
    lost = theirs.max(-1) - np.take_along_axis(theirs, chosen[:, None], -1)[:, 0]
    return Closeness(
        len(theirs), int((lost == 0).sum()), int((lost > TIE).sum()), float(np.abs(apart).mean()),
        float(np.abs(apart).max()), float(divergence.mean()),
    )  # fmt: skip


def _log_probabilities(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(-1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


def logits(native: Native, forcings: Sequence[Forcing], kind: str, runtime: str) -> Iterator[Verdict]:
    """The export's logits for what the source writes, given its features and its tokens."""
    what = f"forced logits in {runtime}"
    pairs = []
    for one in forcings:
        found = native.logits(one.tokens, mel=one.mel)
        if found.shape != one.logits.shape or not np.isfinite(found[one.first :]).all():
            yield fails(3, what, f"no logits {list(one.logits.shape)} of numbers, but {list(found.shape)}")
            return
        pairs.append((one.logits[one.first :], found[one.first :]))
    seen, gate = closeness(pairs), GATES.get(kind, LOW)
    problems = []
    if not seen.difference <= gate.difference:
        problems.append(f"they differ by {seen.difference:.3f} in the mean, {kind} by at most {gate.difference:g}")
    if not seen.divergence <= gate.divergence:
        problems.append(f"a divergence of {seen.divergence:.2g}, of {kind} at most {gate.divergence:g}")
    if kind in GATES and GATES[kind] is PLAIN and seen.turned:
        problems.append(f"another token at {seen.turned} of {seen.positions} positions")
    told = (
        f"{seen.agree} of {seen.positions} positions choose the same token; mean difference {seen.difference:.3f}, "
        f"divergence {seen.divergence:.2g}"
    )
    yield judged(3, what, "; ".join(problems), told, **asdict(seen), gate=asdict(gate), clips=len(forcings))


def timestamps_known(closings: Sequence[Forcing], first: int) -> Verdict:
    """Whether the model writes timestamps: how likely one is after a text that began with one. `first` is <|0.00|>."""
    what = "timestamps, as the model was taught"
    # given <|0.00|>, the end of a text is told by a timestamp, of which it may choose any: they are counted together
    shares = []
    for one in closings:
        likely = np.exp(_log_probabilities(one.logits[-1:].astype(np.float64)))[0]
        shares.append(float(likely[first:].sum()))
    share = float(np.median(shares))
    if share < NEVER:
        return fails(
            4, what,
            f"after <|0.00|> and a text a timestamp has {share:.1%} of the probability: it was trained without them. "
            "whisper.cpp and faster-whisper ask for them by default, and what comes then is garbage: train with both, "
            "or run it without (-nt, without_timestamps=True) and verify it with --no-timestamps",
            share=share,
        )  # fmt: skip
    return holds(4, what, f"{share:.1%} of the probability is theirs where one must stand", share=share)
