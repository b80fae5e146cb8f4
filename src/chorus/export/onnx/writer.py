"""Graphs into files, in as many types as are wanted from one read of the model, and never a model in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus.checkpoints.model import Model
from chorus.errors import CheckpointError
from chorus.export.ctranslate2.writer import rounded_rows
from chorus.export.onnx.graph import FLOAT, FLOAT16, INT8, Graph, Stored, Weight, entries
from chorus.export.onnx.wire import opening, part, whole
from chorus.export.output import Sink, new_file
from chorus.export.values import Array, as_float16, as_float32, blocks
from chorus.export.whisper import tensor_of

IR_VERSION, OPERATORS, PRODUCER = 8, 17, "chorus"
# a message of protocol buffers has at most 2 GiB: beyond it weights lie in a file of their own
LIMIT = (1 << 31) - (1 << 24)
SMALL = 1024  # bytes that stay in the graph's own file in any case
PAGE = 4096  # where weights begin in a file of their own, so that it can be mapped
NUMPY: dict[int, type[np.generic]] = {FLOAT: np.float32, FLOAT16: np.float16, INT8: np.int8}


def write(model: Model, graphs: Mapping[Path, Graph], metadata: Mapping[str, str], tell: Callable[[int], None]) -> None:
    """One graph's types, each to its file; `metadata` stands in all of them. `tell` hears of values that were read."""
    with ExitStack() as stack:
        files = [GraphFile(stack, path, graph, metadata) for path, graph in graphs.items()]
        for weight in dict.fromkeys(one.weight for one in next(iter(graphs.values())).stored if one.weight):
            for file in files:
                file.begin(weight)
            for values in _blocks(model, weight):
                for file in files:
                    file.values(values)
                tell(len(values))
            for file in files:
                file.end()
        for file in files:
            file.finish()


def nbytes(graph: Graph) -> int:
    """Of its files, near enough."""
    return sum(one.nbytes + PAGE * (one.nbytes >= SMALL) for one in graph.stored) + sum(map(len, graph.nodes))


def _blocks(model: Model, weight: Weight) -> Iterator[Array]:
    """Whole rows; of a vocabulary that is cut the last ones stay out."""
    tensor = tensor_of(model, weight.tensor)
    if tensor.shape[1:] != weight.shape[1:] or tensor.shape[0] < weight.rows:
        raise CheckpointError(
            f"{model.label}: {weight.tensor} has {tensor.shape}, by its config {weight.shape}", "save it again"
        )
    left = weight.rows * weight.row
    for values in blocks(tensor, weight.row):
        if left > 0:
            yield values[:left]
        left -= len(values)


class GraphFile:
    """A graph's file, and that of its weights where they are too many for one message."""

    def __init__(self, stack: ExitStack, path: Path, graph: Graph, metadata: Mapping[str, str]) -> None:
        self.graph, self.metadata = graph, metadata
        inside = sum(one.nbytes + 200 for one in graph.stored) + sum(len(node) + 8 for node in graph.nodes)
        self.weights = path.with_name(path.name.removesuffix(".onnx") + ".weights")
        self._file = Sink(path, stack.enter_context(new_file(path)))
        apart = inside > LIMIT
        self._far = Sink(self.weights, stack.enter_context(new_file(self.weights))) if apart else None
        self._far_at = 0
        self._left = list(graph.stored)  # what has not been written yet
        self._turned: NDArray[np.generic] | None = None  # a matrix whose rows become columns
        self._scales: list[NDArray[np.float32]] = []
        self._row = 0  # of the weight that is being written
        self._begun()

    def _begun(self) -> None:
        """Everything before the weights; how long all of it will be stands at the beginning."""
        nodes = b"".join(part(1, node) for node in self.graph.nodes) + part(2, self.graph.name)
        self._around = b"".join(part(11, one) for one in self.graph.inputs)
        self._around += b"".join(part(12, one) for one in self.graph.outputs)
        total, at = len(nodes) + len(self._around), 0
        for one in self.graph.stored:
            at, _, size = self._head(one, at)
            total += len(opening(5, size)) + size
        self._file.write(whole(1, IR_VERSION) + part(2, PRODUCER) + opening(7, total) + nodes)
        self._constants()

    def _head(self, one: Stored, at: int) -> tuple[int, bytes, int]:
        """(where weights outside go on, what stands before an entry's bytes, bytes of the entry with all of its own).

        `at` is where weights outside have come to.
        """
        head = b"".join(whole(1, size) for size in one.shape) + whole(2, one.dtype) + part(8, one.name)
        if not self._is_far(one):
            head += opening(9, one.nbytes)
            return at, head, len(head) + one.nbytes
        at += -at % PAGE
        told = {"location": self.weights.name, "offset": str(at), "length": str(one.nbytes)}
        head += entries(told, 13) + whole(14, 1)
        return at + one.nbytes, head, len(head)

    def _is_far(self, one: Stored) -> bool:
        return self._far is not None and one.weight is not None and one.nbytes >= SMALL

    def _entry(self) -> tuple[Stored, Sink]:
        """The next entry, and where its bytes go."""
        one, before = self._left.pop(0), self._far_at
        self._far_at, head, size = self._head(one, before)
        self._file.write(opening(5, size) + head)
        if self._far is None or not self._is_far(one):
            return one, self._file
        self._far.write(bytes(self._far_at - one.nbytes - before))  # up to the next page
        return one, self._far

    def _constants(self) -> None:
        """What is known beforehand, up to the next weight."""
        while self._left and self._left[0].weight is None:
            one, file = self._entry()
            file.write(one.data)

    def begin(self, weight: Weight) -> None:
        """The next weight."""
        first = self._left[0]
        assert first.weight == weight
        self._name, self._weight, self._dtype, self._row, self._scales = weight.tensor, weight, first.dtype, 0, []
        turned = weight.form == "matrix" or first.dtype == INT8
        self._turned = np.empty(first.shape, NUMPY[first.dtype]) if turned else None
        if not turned:
            _, self._to = self._entry()

    def values(self, values: Array) -> None:
        """Its next values, in whole rows."""
        cast: Array
        if self._dtype == INT8:
            whole_rows, scales = rounded_rows(as_float32(values, self._name).reshape(-1, self._weight.row))
            self._scales.append((1 / scales).astype(np.float32))
            cast = whole_rows
        else:
            cast = (as_float16 if self._dtype == FLOAT16 else as_float32)(values, self._name)
        if self._turned is None:
            self._to.write(cast)
            return
        rows = cast.reshape(-1, self._weight.row)
        self._turned[:, self._row : self._row + len(rows)] = rows.T
        self._row += len(rows)

    def end(self) -> None:
        """It is whole."""
        if self._turned is not None:
            _, file = self._entry()
            file.write(self._turned)
        if self._scales:
            _, file = self._entry()
            file.write(np.concatenate(self._scales))
        self._turned, self._scales = None, []
        self._constants()

    def finish(self) -> None:
        """Everything after the weights."""
        assert not self._left
        operators = part(8, part(1, "") + whole(2, OPERATORS))
        self._file.write(self._around + operators + entries(self.metadata, 14))
