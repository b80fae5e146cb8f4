"""How one output tensor comes about: what it is made of, in which steps. All that the arithmetic knows of a plan."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from chorus.architectures.roles import Role
from chorus.checkpoints.dtypes import itemsize
from chorus.merge.arithmetic.treatment import MATRIX
from chorus.merge.method import METHODS, Method, Resolved, Split

COPY = "copy"


@dataclass(frozen=True)
class Input:
    """A tensor of an input model, by the model's place among the session's models."""

    model: int
    tensor: str


@dataclass(frozen=True)
class Step:
    """One method on a tensor. The first works on the models' tensors, each further one on what came before.

    `parameters` holds every keyword of the method, `PerModel` ones as tuples in the order of the inputs. `treatment`
    is how a subspace method sees the tensor: "matrix" or "vector", else empty. `inner` is the method that this one
    runs within itself, on tensors that it makes.
    """

    method: str
    parameters: dict[str, Resolved]
    treatment: str = ""
    inner: Step | None = None

    @property
    def definition(self) -> Method:
        return METHODS.get(self.method)

    def split(self, dimensions: int) -> Split:
        """Into what the method lets a tensor of so many dimensions be cut."""
        if self.treatment:
            return "tensor" if self.treatment == MATRIX else "element"
        # a bias has no rows: methods that go by rows take it for one vector
        found = self.definition.split(self.parameters)
        return "tensor" if dimensions < 2 and found != "element" else found


@dataclass(frozen=True)
class TensorPlan:
    """How one output tensor comes about. Without steps it is taken over from its only input; `reason` says why.

    `auxiliary` holds what a method takes beside the models' tensors, by name: an input a model, None where a model's
    file has no such tensor.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role
    steps: tuple[Step, ...]
    inputs: tuple[Input, ...]
    base: Input | None = None
    reason: str = ""
    auxiliary: dict[str, tuple[Input | None, ...]] = field(default_factory=dict)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * itemsize(self.dtype)

    @property
    def all_inputs(self) -> tuple[Input, ...]:
        """Everything that is read, the base last but for auxiliary tensors."""
        beside = (which for each in self.auxiliary.values() for which in each if which is not None)
        return (*self.inputs, *((self.base,) if self.base else ()), *beside)

    @property
    def method(self) -> str:
        """The method that the tensor goes by: the last step's, or "copy"."""
        return self.steps[-1].method if self.steps else COPY

    @property
    def parameters(self) -> dict[str, Resolved]:
        """The parameters of all steps and inner methods; where two have one of the same name, the later step's."""
        found: dict[str, Resolved] = {}
        for step in self.steps:
            found |= {**(step.inner.parameters if step.inner else {}), **step.parameters}
        return found

    @property
    def treatment(self) -> str:
        return self.steps[-1].treatment if self.steps else ""

    @property
    def decomposed(self) -> bool:
        """Whether a step takes it as a matrix."""
        return any(step.treatment == MATRIX for step in self.steps)

    @property
    def deltas(self) -> bool:
        """Whether the first step works on differences to the base, which is added to what the last one returns."""
        return bool(self.steps) and self.base is not None and self.steps[0].definition.space != "weights"

    def splits(self) -> Iterator[Split]:
        """Into what each step lets the tensor be cut."""
        return (step.split(len(self.shape)) for step in self.steps)
