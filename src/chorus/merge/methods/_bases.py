"""The step that TSV-M, BoostedTSV-M and Iso-CTS share: singular bases of several tasks become one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from chorus.lazy import lazy
from chorus.linalg.low_rank import LowRank
from chorus.linalg.polar import Scale, Schedule, newton_schulz, polar_factor
from chorus.linalg.spectra import Triplets, complete, singular_triplets, smaller_side
from chorus.merge.method import Memo

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from chorus.linalg.low_rank import Delta
else:
    torch = lazy("torch")


@dataclass(frozen=True)
class Orthogonaliser:
    """How bases of several tasks are made one: exactly, or by the published iteration."""

    orth: Literal["exact", "ns"]
    ns_schedule: Schedule
    ns_scale: Scale
    ns_polish: int

    def __call__(self, bases: Tensor, blocks: int) -> Tensor:
        if bases.shape[1] == 0 or self.orth == "exact":
            return polar_factor(bases) if bases.shape[1] else bases
        return newton_schulz(
            bases,
            blocks=blocks,
            schedule=self.ns_schedule,
            scale=self.ns_scale,
            polish=self.ns_polish,
        )


def orthogonaliser(
    preset: str, orth: Literal["exact", "ns"], ns_schedule: Schedule, ns_scale: Scale, ns_polish: int
) -> Orthogonaliser:
    """The setting that holds: `preset: paper` is five unpolished steps after division by the norm."""
    # NVIDIA's Emerging-Optimizers as the paper ran it: the norm first, five steps, nothing after them
    if preset == "paper":
        return Orthogonaliser("ns", ns_schedule, "frobenius", 0)
    return Orthogonaliser(orth, ns_schedule, ns_scale, ns_polish)


def merge_bases(
    deltas: Sequence[Delta],
    *,
    weight: Sequence[float],
    rank: int,
    orthogonalise: Orthogonaliser,
    memo: Memo,
    raise_values: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Delta:
    """U_o diag(S) V_o^T with U_o, V_o the orthogonalised singular bases of all tasks, S their (raised) values.

    `raise_values(kept, spectrum)` is BoostedTSV-M's step. The bases do not depend on it, nor on the weights, and
    are remembered without them.
    """
    count = len(deltas)
    wanted = {"rank": rank, **vars(orthogonalise), "spectrum": raise_values is not None}

    def bases() -> dict[str, Tensor]:
        parts, low_rank = [], []
        for i in range(count):
            delta = deltas[i]
            low_rank.append(isinstance(delta, LowRank))
            parts.append(_triplets(delta, i, rank, memo, whole=raise_values is not None))
        found = {
            # as a tensor, since only such are remembered, and a hit reads no delta to look
            "low_rank": torch.tensor(low_rank),
            "left": orthogonalise(torch.cat([p.left for p in parts], dim=1), count),
            "right": orthogonalise(torch.cat([p.right for p in parts], dim=1), count),
        }
        # each by itself: null values are dropped, so tasks may have kept different numbers
        for i, p in enumerate(parts):
            found[f"values.{i}"] = p.values
            if raise_values is not None:
                assert p.spectrum is not None
                found[f"spectrum.{i}"] = p.spectrum
        return found

    found = memo("bases", range(count), wanted, bases)
    # weights and lambda meet in these few numbers, so that one set of bases serves them all
    values = []
    for i, w in enumerate(weight):
        s = found[f"values.{i}"]
        values.append((s if raise_values is None else raise_values(s, found[f"spectrum.{i}"])) * w)
    left, right = found["left"] * torch.cat(values), found["right"].T
    factors = LowRank(left, right, (left.shape[0], right.shape[1]))
    return factors if bool(found["low_rank"].all()) else factors.dense()


def _triplets(delta: Delta, i: int, rank: int, memo: Memo, *, whole: bool) -> Triplets:
    """A task's triplets. Of a dense one the smaller side's vectors are remembered, of factors nothing: they are quick.

    Vectors are computed for the next of fixed ranks (an eighth, a quarter, a half of all, all), so that other ranks
    up to it find them, and get the same bytes as without the cache.
    """
    if isinstance(delta, LowRank):
        return singular_triplets(delta, rank, whole=whole)
    size = min(delta.shape)
    wanted = next((s for s in (size // 8, size // 4, size // 2) if rank <= s), size)

    def decompose() -> dict[str, Tensor]:
        vectors, values, spectrum = smaller_side(delta, wanted, whole=whole)
        return {"vectors": vectors, "values": values, **({} if spectrum is None else {"spectrum": spectrum})}

    found = memo("triplets", [i], {"rank": wanted, "whole": whole}, decompose)
    return complete(delta, found["vectors"], found["values"], found.get("spectrum")).first(rank)
