"""A graph of ONNX operators that is put together node by node; its weights are named and shaped, and read later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from chorus.export.onnx.wire import part, real, whole

# onnx.proto's numbers of types, and their bytes
FLOAT, INT8, INT64, FLOAT16 = 1, 3, 7, 10
BYTES = {FLOAT: 4, INT8: 1, INT64: 8, FLOAT16: 2}
EPSILON = 1e-5  # of every Whisper's norms

Form = Literal["plain", "convolution", "matrix", "table"]
Attribute = int | float | Sequence[int]


@dataclass(frozen=True)
class Weight:
    """A tensor of the model as a graph holds it; `shape` is the source's.

    plain        as it is, float32
    convolution  as it is, in the type of the matrices where that is a float
    matrix       a layer's, its rows as columns
    table        the embedding, as it is; quantised its rows are columns too, so that the head can be multiplied with it
    """

    tensor: str
    shape: tuple[int, ...]
    form: Form

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def row(self) -> int:
        return prod(self.shape[1:])


@dataclass(frozen=True)
class Stored:
    """An entry of a graph's table of constants: bytes that are known, or a weight (or its scales)."""

    name: str
    dtype: int
    shape: tuple[int, ...]
    data: bytes = b""
    weight: Weight | None = None

    @property
    def nbytes(self) -> int:
        return BYTES[self.dtype] * prod(self.shape)


class Graph:
    """Nodes, constants and weights of one graph in one number type: float32, float16 or int8.

    `shape_of` gives a tensor's shape in the model. float16 is how weights are stored: they are computed with in
    float32, to which the runtime casts them once, when it loads. int8 are weights with a scale a row; what they are
    multiplied with is rounded to eight bits as well, by a scale that is found at each step.
    """

    def __init__(self, name: str, kind: str, shape_of: Callable[[str], tuple[int, ...]]) -> None:
        self.name, self.kind, self._shape_of = name, kind, shape_of
        self.nodes: list[bytes] = []
        self.stored: list[Stored] = []
        self.inputs: list[bytes] = []
        self.outputs: list[bytes] = []
        self._known: dict[object, str] = {}  # what is used more than once -> its name
        self._count = 0

    @property
    def quantised(self) -> bool:
        return self.kind == "int8"

    # ---- nodes ----

    def op(self, kind: str, *inputs: str, to: str = "", **attributes: Attribute) -> str:
        """A node of one output, by its name."""
        (found,) = self.ops(kind, *inputs, outputs=1, to=to, **attributes)
        return found

    def ops(self, kind: str, *inputs: str, outputs: int, to: str = "", **attributes: Attribute) -> list[str]:
        """A node, and the names of its outputs."""
        self._count += 1
        names = [to or f"{kind}_{self._count}{f'_{i}' if i else ''}" for i in range(outputs)]
        node = [part(1, one) for one in inputs] + [part(2, one) for one in names]
        node += [part(3, f"{kind}_{self._count}"), part(4, kind)]
        node += [part(5, _attribute(name, value)) for name, value in attributes.items()]
        self.nodes.append(b"".join(node))
        return names

    def constant(self, values: Sequence[int] | int | float) -> str:
        """Whole numbers, or one float32; the same one is stored once."""
        key = ("constant", values if isinstance(values, int | float) else tuple(values), type(values))
        if key not in self._known:
            array: NDArray[np.generic] = np.array(values, np.float32 if isinstance(values, float) else np.int64)
            name = f"constant_{sum(one.weight is None for one in self.stored)}"
            dtype = FLOAT if isinstance(values, float) else INT64
            self.stored.append(Stored(name, dtype, array.shape, array.tobytes()))
            self._known[key] = name
        return self._known[key]

    # ---- weights ----

    def weight(self, tensor: str, form: Form = "plain") -> str:
        """The values of one as float32, by name; of a quantised one those that are stored (see `scales`)."""
        if (tensor, form) in self._known:
            return self._known[tensor, form]
        weight = Weight(tensor, self._shape_of(tensor), form)
        turned = form == "matrix" or (form == "table" and self.quantised)
        shape = weight.shape[::-1] if turned else weight.shape
        if self.quantised and form in ("matrix", "table"):
            name = f"{tensor}_quantized"
            self.stored.append(Stored(name, INT8, shape, weight=weight))
            self.stored.append(Stored(f"{tensor}_scale", FLOAT, (weight.rows,), weight=weight))
        elif self.kind == "float16" and form != "plain":
            self.stored.append(Stored(tensor, FLOAT16, shape, weight=weight))
            name = self.op("Cast", tensor, to_type=FLOAT)
        else:
            name = tensor
            self.stored.append(Stored(name, FLOAT, shape, weight=weight))
        self._known[tensor, form] = name
        return name

    def product(self, x: str, tensor: str, form: Form = "matrix") -> str:
        """`x` times a matrix of the model, whose rows are outputs."""
        values = self.weight(tensor, form)
        if not self.quantised:
            return self.op("MatMul", x, values)
        # several layers ask for the same input in eight bits
        if ("eight bits", x) not in self._known:
            rounded = self.ops("DynamicQuantizeLinear", x, outputs=3)
            self._known["eight bits", x] = " ".join(rounded)
        whole_x, scale, zero = self._known["eight bits", x].split(" ")
        summed = self.op("Cast", self.op("MatMulInteger", whole_x, values, zero), to_type=FLOAT)
        return self.op("Mul", summed, self.op("Mul", scale, f"{tensor}_scale"))

    def linear(self, x: str, layer: str, *, bias: bool = True) -> str:
        """A layer of the model, under its name."""
        found = self.product(x, f"{layer}.weight")
        return self.op("Add", found, self.weight(f"{layer}.bias")) if bias else found

    def norm(self, x: str, layer: str) -> str:
        """Layer normalisation over the last dimension."""
        weights = self.weight(f"{layer}.weight"), self.weight(f"{layer}.bias")
        return self.op("LayerNormalization", x, *weights, axis=-1, epsilon=EPSILON)

    def gelu(self, x: str) -> str:
        """x (1 + erf(x / sqrt 2)) / 2, in the order of operators that onnxruntime joins into one."""
        erf = self.op("Erf", self.op("Div", x, self.constant(2**0.5)))
        return self.op("Mul", self.op("Mul", x, self.op("Add", erf, self.constant(1.0))), self.constant(0.5))

    def sliced(self, x: str, start: str, stop: str, axis: int) -> str:
        """A range of one dimension; its ends are names of vectors of one number."""
        return self.op("Slice", x, start, stop, self.constant([axis]))

    # ---- what goes in and out ----

    def takes(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """An input; dimensions that are free have a name."""
        self.inputs.append(_value(name, dtype, shape))
        return name

    def gives(self, name: str, shape: Sequence[int | str]) -> None:
        """An output, float32, which a node has made under this name."""
        self.outputs.append(_value(name, FLOAT, shape))


def _attribute(name: str, value: Attribute) -> bytes:
    """AttributeProto; `to_type` is Cast's `to`, which is a word of ours."""
    name = "to" if name == "to_type" else name
    if isinstance(value, int):
        return part(1, name) + whole(3, value) + whole(20, 2)
    if isinstance(value, float):
        return part(1, name) + real(2, value) + whole(20, 1)
    return part(1, name) + b"".join(whole(8, one) for one in value) + whole(20, 7)


def _value(name: str, dtype: int, shape: Sequence[int | str]) -> bytes:
    """ValueInfoProto of a tensor."""
    dims = b"".join(part(1, whole(1, one) if isinstance(one, int) else part(2, one)) for one in shape)
    return part(1, name) + part(2, part(1, whole(1, dtype) + part(2, dims)))


def entries(pairs: Mapping[str, str], field: int) -> bytes:
    """StringStringEntryProto, one a key."""
    return b"".join(part(field, part(1, key) + part(2, value)) for key, value in pairs.items())
