"""A tensor that has not been read yet, and the read-only mapping of names to them that every model is."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from chorus.checkpoints.dtypes import itemsize, torch_dtype
from chorus.checkpoints.kinds import refuse_other_kinds
from chorus.checkpoints.safetensors_header import Entry
from chorus.errors import CheckpointError
from chorus.files import opened
from chorus.identity import bytes_hash
from chorus.lazy import lazy

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor
else:
    np = lazy("numpy")
    torch = lazy("torch")


@runtime_checkable
class LazyTensor(Protocol):
    """A tensor's name, types and shape, and ways to read all of it or a range of its values in row-major order.

    `dtype` is the type of what is read, `stored_dtype` that of the file: an adapter on a bfloat16 base reads as
    float32.
    """

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def stored_dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...

    def flat(self, start: int, stop: int) -> Tensor:
        """Values `start` to `stop` of the flattened tensor, 1-D; do not write to it."""

    def read(self) -> Tensor:
        """The whole tensor, in its own type and shape."""


@runtime_checkable
class ChangedTensor(Protocol):
    """What a lazy tensor also is where it is known as another one and what is added to that."""

    @property
    def base(self) -> LazyTensor: ...

    def difference(self, start: int, stop: int) -> Tensor | None:
        """What is added, values `start` to `stop` in float32, exactly; None where adding is not all (DoRA)."""


@runtime_checkable
class KeepingTensor(Protocol):
    """What a lazy tensor also is where a read keeps something for the next one."""

    def release(self) -> None:
        """Drop what is kept."""


T = TypeVar("T", bound=LazyTensor)


class Checkpoint(Mapping[str, LazyTensor]):
    """A read-only mapping from tensor name to lazy tensor, wherever it comes from.

    `label` is what messages call it.
    """

    label: str = ""

    def __init__(self, tensors: Mapping[str, LazyTensor], label: str) -> None:
        self._tensors = dict(tensors)
        self.label = label

    def __getitem__(self, name: str) -> LazyTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def each_once(tensors: Iterable[T], label: str) -> dict[str, T]:
    """Tensors of several files by name; a name in two of them is an error, and so is what no weight is made of."""
    found: dict[str, T] = {}
    for tensor in tensors:
        if tensor.name in found:
            raise CheckpointError(f"{label}: tensor {tensor.name} stands in two files", "save the model again")
        # before the tensor is taken: an int8 matrix without its scales would be merged as if it were weights
        refuse_other_kinds(tensor.name, tensor.dtype, tensor.shape, label)
        found[tensor.name] = tensor
    return found


class MappedFile:
    """A file mapped into memory when first read; its pages belong to the page cache, not to the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._buffer: NDArray[np.uint8] | None = None

    def bytes(self) -> NDArray[np.uint8]:
        """The whole file, sharing the mapping."""
        # when it is asked, not before: a plan over many shards holds no file open
        if self._buffer is None:
            with opened(self.path) as file:
                # copy on write, though nobody writes: torch warns of every tensor over read-only memory, and a slip of
                # a method must not reach the file
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            self._buffer = np.frombuffer(mapping, np.uint8)
        return self._buffer


class FileTensor:
    """A tensor inside a safetensors file."""

    def __init__(self, entry: Entry, file: MappedFile) -> None:
        self.name, self.dtype, self.shape = entry.name, entry.dtype, entry.shape
        self.stored_dtype = entry.dtype
        self.entry, self.file = entry, file

    def bytes(self, start: int, stop: int) -> NDArray[np.uint8]:
        """The bytes of values `start` to `stop`, as they lie in the file; do not write to them."""
        size = itemsize(self.dtype)
        first = self.entry.start + start * size
        return self.file.bytes()[first : first + (stop - start) * size]

    def flat(self, start: int, stop: int) -> Tensor:
        raw = torch.from_numpy(self.bytes(start, stop))
        if raw.data_ptr() % itemsize(self.dtype):  # the format does not promise alignment
            raw = raw.clone()
        return raw.view(torch_dtype(self.dtype))

    def read(self) -> Tensor:
        return self.flat(0, math.prod(self.shape)).reshape(self.shape)


class MemoryTensor:
    """A tensor that is already in memory; what pickled files give. `path` is the file, where it is from one."""

    def __init__(self, name: str, value: Tensor, path: Path | None = None) -> None:
        self.name, self.value = name, value.detach().contiguous()  # ranges are cut from the flat values
        self.path = path
        self.dtype = self.stored_dtype = str(value.dtype).removeprefix("torch.")
        self.shape = tuple(value.shape)

    def flat(self, start: int, stop: int) -> Tensor:
        return self.value.reshape(-1)[start:stop]

    def value_hash(self) -> str:
        """Type, shape and content."""
        data = self.value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy()
        return f"{self.dtype} {self.shape} {bytes_hash(data)}"

    def read(self) -> Tensor:
        return self.value


class HeaderTensor:
    """A tensor of which only the header is here: what a plan on a hub id needs."""

    def __init__(self, entry: Entry, where: str) -> None:
        self.name, self.dtype, self.shape, self.where = entry.name, entry.dtype, entry.shape, where
        self.stored_dtype = entry.dtype

    def flat(self, start: int, stop: int) -> Tensor:
        raise CheckpointError(f"{self.where}: the weights were not downloaded", "run `chorus merge`, which does")

    def read(self) -> Tensor:
        return self.flat(0, 0)
