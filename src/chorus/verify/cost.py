"""L5: what an export costs: bytes, the time until it is ready, time and memory of decoding."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from chorus.runtime import cores
from chorus.sizes import size
from chorus.verify.protocol import Subject
from chorus.verify.verdict import Verdict, holds, judged

BUSY = 0.5  # of the cores at work: then times say little


def sizes(subject: Subject) -> Iterator[Verdict]:
    """The file's bytes: exactly those that its tensors and tokens take."""
    share = f", {subject.nbytes / subject.as_float16:.2f} of float16's" if subject.as_float16 else ""
    off = subject.predicted is not None and subject.predicted != subject.nbytes
    problem = f"{subject.nbytes:,} bytes, by its source it takes {subject.predicted:,}" if off else ""
    yield judged(5, "size", problem, f"{size(subject.nbytes)}{share}", bytes=subject.nbytes,
                 predicted=subject.predicted, float16=subject.as_float16)  # fmt: skip


@dataclass(frozen=True)
class Spent:
    """Seconds until a runtime was ready, of decoding, of audio; the most memory that its process had, where known."""

    ready_s: float
    decode_s: float
    audio_s: float
    peak_bytes: int | None


def spent(one: Spent, runtime: str) -> Verdict:
    """The costs of a run, and whether the machine was busy with something else."""
    factor = one.decode_s / one.audio_s if one.audio_s else None
    parts = [f"ready after {one.ready_s:.1f} s"]
    parts += [f"{factor:.2f} s for a second of audio"] if factor is not None else []
    parts += [f"at most {size(one.peak_bytes)} of memory"] if one.peak_bytes else []
    # one of the load is this very process
    busy = os.getloadavg()[0] > BUSY * cores() + 1
    parts += ["while the machine was busy: times say little"] if busy else []
    return holds(5, f"cost in {runtime}", ", ".join(parts), ready_s=one.ready_s, real_time_factor=factor,
                 peak_bytes=one.peak_bytes, busy=busy)  # fmt: skip
