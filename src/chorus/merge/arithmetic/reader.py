"""Blocks of input tensors, read once a pass: bytes, float32 arrays, or torch tensors; nothing that is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

from chorus.cache import TensorCache
from chorus.checkpoints.lazy_tensor import FileTensor, KeepingTensor, LazyTensor
from chorus.checkpoints.model import Model
from chorus.errors import CheckpointError
from chorus.identity import Digest, digest
from chorus.lazy import lazy
from chorus.linalg import native
from chorus.linalg.blocks import CHUNK
from chorus.merge.arithmetic.tensor_plan import Input

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    Bytes = NDArray[np.uint8]
    Observer = Callable[[Input, int, int, Bytes], None]
else:
    np, torch = lazy("numpy"), lazy("torch")

NONFINITE_HINT = (
    "an overflow in float16, a training that diverged, or a damaged file; --allow-nonfinite merges it all the same"
)


class Reader:
    """Reads blocks of input tensors. One a thread: it reuses its buffers.

    `observe(input, first value, number of values, bytes)` sees every block of the first pass over a file's tensor.
    """

    def __init__(
        self,
        models: Sequence[Model],
        *,
        device: str,
        allow_nonfinite: bool,
        observe: Observer | None = None,
        cache: TensorCache | None = None,
    ) -> None:
        self.models, self.device, self.allow_nonfinite = models, device, allow_nonfinite
        self.observe, self.cache = observe, cache
        self.digests: dict[Input, Digest] = {}  # of the bytes that passed, where an observer keeps them
        self.bytes_read = 0
        self._seen: dict[Input, int] = {}  # how far the first pass over each has come
        self._last: dict[Input, tuple[int, int]] = {}
        self._blocks: dict[Input, tuple[int, int, Tensor]] = {}  # the last block of each, in its slot's buffer
        self._buffers: dict[tuple[Hashable, object], Tensor] = {}
        self._arrays: dict[Hashable, NDArray[np.float32]] = {}

    def start(self) -> None:
        """Begin with another output tensor."""
        for which in self._seen:
            tensor = self.tensor(which)
            # an adapter keeps its factors for the next block: over hundreds of modules they would add up
            if isinstance(tensor, KeepingTensor):
                tensor.release()
        # the buffers stay: an allocation a block would be paid in page faults
        self._seen.clear()
        self._last.clear()
        self._blocks.clear()

    def tensor(self, which: Input) -> LazyTensor:
        return self.models[which.model].checkpoint[which.tensor]

    def bytes(self, which: Input, start: int, stop: int) -> Bytes:
        """The bytes of a file's tensor as they are stored."""
        tensor = self.tensor(which)
        assert isinstance(tensor, FileTensor)
        raw = tensor.bytes(start, stop)
        self._passed(which, start, stop, raw.nbytes, raw)
        return raw

    def raw(self, which: Input, start: int, stop: int) -> Tensor:
        """Values as they are stored, in torch."""
        tensor = self.tensor(which)
        raw: Tensor = tensor.flat(start, stop)
        self._passed(
            which, start, stop, raw.nbytes, tensor.bytes(start, stop) if isinstance(tensor, FileTensor) else None
        )
        return raw

    def _passed(self, which: Input, start: int, stop: int, size: int, data: Bytes | None) -> None:
        if self._last.get(which) != (start, stop):  # another variant may ask again for the same block
            self.bytes_read += size
            self._last[which] = start, stop
        # the first pass alone: a method that gathers statistics reads its inputs once more
        if self._seen.get(which, 0) <= start:
            self._seen[which] = stop
            if self.observe is not None and data is not None:
                self.observe(which, start, stop - start, data)

    def numbers(self, which: Input, start: int, stop: int) -> NDArray[np.float32] | NDArray[np.uint16]:
        """Values without torch as they are stored (see chorus.linalg.native.as_array)."""
        return native.as_array(self.bytes(which, start, stop), self.tensor(which).dtype)

    def array(self, which: Input, start: int, stop: int, key: Hashable) -> NDArray[np.float32]:
        """Values in float32 without torch, in the buffer of this key; refused where one is not finite."""
        raw, out = self.numbers(which, start, stop), self.array_buffer(key, stop - start)
        if not native.widen(raw, self.tensor(which).dtype, out):
            self.refuse_nonfinite(which, start, stop - start)
        return out

    def refuse_nonfinite(self, which: Input, start: int, count: int) -> None:
        """Name the first value of a range that is not finite, unless such values are allowed."""
        if not self.allow_nonfinite:
            self._check_finite(which, self.tensor(which).flat(start, start + count).float(), start)

    def array_buffer(self, key: Hashable, size: int) -> NDArray[np.float32]:
        """Working memory that lives as long as the reader."""
        buffer = self._arrays.get(key)
        if buffer is None or buffer.size < size:
            buffer = self._arrays[key] = np.empty(size, np.float32)
        return buffer[:size]

    def values(self, which: Input, start: int, stop: int) -> Tensor:
        """Values in float32 (float64 where so stored), on the device; not to be written to.

        Valid until other values of the same tensor are asked for; asking again for the same costs nothing.
        """
        known = self._blocks.get(which)
        if known is not None and known[:2] == (start, stop):
            return known[2]
        # asked before the read, which moves the mark
        unseen = self._seen.get(which, 0) <= start
        # slots by the order of asking: one buffer for each input of this output, which the next output takes over
        slot = list(self._blocks).index(which) if known is not None else len(self._blocks)
        tensor = self.tensor(which)
        # one compiled pass widens and looks for NaN; torch takes two
        if self.device == "cpu" and isinstance(tensor, FileTensor) and tensor.dtype in native.DTYPES:
            values = self.buffer(("input", slot), torch.float32, stop - start)
            finite = native.widen(self.numbers(which, start, stop), tensor.dtype, values.numpy())
        else:
            raw = self.raw(which, start, stop)
            dtype = torch.float64 if raw.dtype == torch.float64 else torch.float32
            values = self.buffer(("input", slot), dtype, stop - start)
            values.copy_(raw)
            # NaN and infinity survive a sum, so one reduction looks at all values, on the first pass
            finite = not unseen or self.allow_nonfinite or math.isfinite(float(values.sum()))
        self._blocks[which] = (start, stop, values)
        if not finite and not self.allow_nonfinite:
            self._check_finite(which, values, start)
        return values

    def whole_delta(self, which: Input, base: Input, numel: int) -> Tensor:
        """All values of a tensor less the base's, flat, in float32 (float64 where so stored)."""
        # block by block: base and model are never whole in float32, only their difference
        out = None
        for start in range(0, numel, 16 * CHUNK):
            stop = min(start + 16 * CHUNK, numel)
            origin, values = self.values(base, start, stop), self.values(which, start, stop)
            if out is None:
                dtype = torch.promote_types(values.dtype, origin.dtype)
                out = torch.empty(numel, dtype=dtype, device=self.device)
            torch.sub(values, origin, out=out[start:stop])
        return torch.empty(0, device=self.device) if out is None else out

    def checked(self, which: Input, values: Tensor) -> Tensor:
        """Values that were not read here, on the device; refused where one is not finite."""
        if not self.allow_nonfinite and not bool(torch.isfinite(values).all()):
            self.refuse_factors(which)
        return values.to(self.device)

    def digest(self, which: Input) -> str:
        """XXH3-128 of a tensor's values: of the bytes as stored, where it lies in a file."""
        tensor = self.tensor(which)
        found, numel = digest(), math.prod(tensor.shape)
        stored = isinstance(tensor, FileTensor)
        for start in range(0, numel, 16 * CHUNK):
            stop = min(start + 16 * CHUNK, numel)
            data = self.bytes(which, start, stop) if stored else None
            # else the engine's observer has hashed what `self.bytes` just gave it
            if which not in self.digests:
                found.update(tensor.flat(start, stop).contiguous().view(torch.uint8).numpy() if data is None else data)
        # the type too: the same bytes are other numbers in float16 than in bfloat16
        return f"{tensor.dtype} {self.digests.get(which, found).hexdigest()}"

    def refuse_factors(self, which: Input) -> None:
        """Name an adapter whose factors are not finite."""
        label = self.models[which.model].label
        raise CheckpointError(f"{label}: what it adds to {which.tensor} holds NaN or infinity", NONFINITE_HINT)

    def buffer(self, key: Hashable, dtype: torch.dtype, size: int) -> Tensor:
        """Working memory on the device that lives as long as the reader."""
        buffer = self._buffers.get((key, dtype))
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[key, dtype] = torch.empty(size, dtype=dtype, device=self.device)
        return buffer[:size]

    def _check_finite(self, which: Input, values: Tensor, start: int) -> None:
        """The sum may overflow where no value is infinite: look at each."""
        wrong = (~torch.isfinite(values)).nonzero()
        if len(wrong):
            self._refuse(which, start + int(wrong[0, 0]), str(float(values[wrong[0, 0]])))

    def _refuse(self, which: Input, position: int, value: str) -> None:
        label = self.models[which.model].label
        raise CheckpointError(f"{label}: tensor {which.tensor} holds {value} at position {position:,}", NONFINITE_HINT)
