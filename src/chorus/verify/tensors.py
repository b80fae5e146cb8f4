"""L1: every tensor of an export beside the source's: by bytes, where the source can be put in its type again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from chorus.errors import ChorusError, MissingExtraError, some
from chorus.verify.protocol import TensorProof
from chorus.verify.verdict import Verdict, flagged, holds, judged, skipped

WORST = 5


def tensors(proofs: Iterable[TensorProof]) -> Iterator[Verdict]:
    """All tensors by type, and the five that are furthest from the source."""
    found: list[TensorProof] = []
    try:
        found.extend(proofs)
    except MissingExtraError as error:
        yield skipped(1, "tensors", str(error))
        return
    except ChorusError as error:
        yield judged(1, "tensors", error.message)
        return
    if not found:
        yield skipped(1, "tensors", "its structure does not hold")
        return
    for kind in dict.fromkeys(one.kind for one in found):
        own = [one for one in found if one.kind == kind]
        wrong = [one for one in own if one.problem]
        told = some((f"{one.name} {one.problem}" for one in wrong), 2)
        by_bytes = sum(one.same is not None for one in own)
        how = (
            "by bytes"
            if by_bytes == len(own)
            else "by how far values are off"
            if not by_bytes
            else f"{by_bytes} by bytes, {len(own) - by_bytes} by how far values are off"
        )
        yield judged(
            1, f"tensors in {kind}", f"{len(wrong)} of {len(own)}: {told}" if wrong else "",
            f"{len(own)} {how}", tensors=len(own), by_bytes=by_bytes, wrong=[one.name for one in wrong],
        )  # fmt: skip
    # by name where they are equal, so that two runs say the same
    worst = sorted(found, key=lambda one: (-one.error, one.name))[:WORST]
    told = ", ".join(f"{one.name} {one.error:.2g}" for one in worst)
    # beside a tensor that is another's a list of small errors must not read as if all were well
    status = flagged if any(one.problem for one in found) else holds
    yield status(1, f"the {len(worst)} furthest from the source", told, errors={one.name: one.error for one in worst})
