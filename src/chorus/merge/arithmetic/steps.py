"""One method on one tensor: its keywords and statistics, its result by ranges or whole; and a chain of such steps."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

from chorus.architectures.roles import Role
from chorus.cache import TensorCache
from chorus.errors import ChorusError
from chorus.lazy import lazy
from chorus.linalg.blocks import CHUNK, Blocks
from chorus.linalg.combine import weighted_total
from chorus.linalg.draws import key_of
from chorus.linalg.low_rank import LowRank
from chorus.linalg.native import Terms
from chorus.merge.arithmetic.memo import CachedMemo
from chorus.merge.arithmetic.operands import InMemoryOperands, ModelOperands, Operands
from chorus.merge.arithmetic.reader import Reader
from chorus.merge.arithmetic.tensor_plan import Step, TensorPlan
from chorus.merge.arithmetic.treatment import MATRIX, matrix_shape
from chorus.merge.method import compute_now

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")


@dataclass(frozen=True)
class StepContext:
    """What all steps of a tensor share. Random draws belong to `method`, the one that the tensor goes by."""

    name: str
    shape: tuple[int, ...]
    role: Role
    method: str
    seed: int
    block: int
    device: str = "cpu"
    cache: TensorCache | None = None


def context_of(
    tensor: TensorPlan, *, seed: int, block: int, device: str = "cpu", cache: TensorCache | None = None
) -> StepContext:
    """The context of a tensor's steps; `block` values at a time, results remembered in `cache`."""
    return StepContext(tensor.name, tensor.shape, tensor.role, tensor.method, seed, block, device, cache)


class MethodCall:
    """A step's function with everything that it takes by keyword."""

    def __init__(self, step: Step, context: StepContext, count: int) -> None:
        self.step, self.context, self.count = step, context, count
        self.method = step.definition
        self._keywords: dict[str, Any] | None = None

    def keywords(self, blocks: Blocks) -> dict[str, Any]:
        """All keywords; the statistics are gathered from `blocks` at the first call, which may take passes."""
        if self._keywords is None:
            given = self._given()
            keywords: dict[str, Any] = {**self.step.parameters}
            keywords |= {k: v for k, v in given.items() if k in self.method.uses}
            if self.method.statistics is not None:
                wanted = _keyword_names(self.method.statistics)
                keywords["statistics"] = self._run(
                    self.method.statistics, blocks, {k: v for k, v in {**keywords, **given}.items() if k in wanted}
                )
            self._keywords = keywords
        return self._keywords

    def _given(self) -> dict[str, Any]:
        """What the engine gives to a function that names it."""
        place = self.context
        shape = matrix_shape(place.shape) if len(place.shape) > 1 else (math.prod(place.shape), 1)
        # by the model's place, not its path: a directory that was moved or renamed draws the same mask
        keys = tuple(key_of(place.seed, place.method, i, place.name) for i in range(self.count))
        return {
            "role": place.role, "treatment": self.step.treatment, "memo": compute_now, "shape": shape, "keys": keys,
            "merge_inner": self._inner,
        }  # fmt: skip

    def _inner(self, tensors: Sequence[Tensor]) -> Tensor:
        """The inner method on equally shaped tensors that the method has made."""
        assert self.step.inner is not None
        found = self.step.inner.definition
        # what the outer method makes is a matrix, whatever the tensor's role, and has no content that a cache knows
        step = replace(self.step.inner, treatment=MATRIX if found.subspace else "")
        place = replace(self.context, shape=tuple(tensors[0].shape), cache=None)
        work = (MatrixWork if found.subspace else StepWork)(step, InMemoryOperands(tensors), place)
        whole = work.whole()
        return whole.dense() if isinstance(whole, LowRank) else whole

    def __call__(self, operands: Any, keywords: dict[str, Any]) -> Any:
        """What the function returns for these operands."""
        return self._run(self.method.function, operands, keywords)

    def coefficients(self, blocks: Blocks) -> tuple[float, ...]:
        """Of a linear method that cuts into elements: what each operand is multiplied by."""
        found: tuple[float, ...] = self(Terms(self.count), self.keywords(blocks))
        return found

    def _run(self, function: Callable[..., Any], operands: Any, keywords: dict[str, Any]) -> Any:
        try:
            return function(operands, **keywords)
        except ValueError as error:  # by convention the user's fault: parameters or geometry
            raise ChorusError(f"{self.method.name}, tensor {self.context.name}: {error}") from error


class StepWork:
    """One step carried out on its operands, which may be cut into ranges."""

    def __init__(self, step: Step, operands: Operands, context: StepContext) -> None:
        self.operands, self.context = operands, context
        self.call = MethodCall(step, context, operands.count)
        self.count, self.shape, self.numel = operands.count, context.shape, math.prod(context.shape)
        self.split = step.split(len(self.shape))

    def __iter__(self) -> Iterator[tuple[int, list[Tensor]]]:
        """Blocks of the operands (see chorus.linalg.blocks.Blocks), for statistics."""
        for start in range(0, self.numel, self.context.block):
            yield start, self.operands.values(start, min(start + self.context.block, self.numel))

    def prepare(self) -> None:
        """Gather the statistics."""
        self.call.keywords(self)

    def ranges(self) -> Iterator[tuple[int, int]]:
        """The ranges in which the result is to be computed, in order."""
        step = self.context.block
        if self.split == "row":
            row = math.prod(self.shape[1:])
            step = max(1, CHUNK // row) * row  # part of the arithmetic: the same for any block size
        elif self.split == "tensor":
            step = max(1, self.numel)  # of a tensor without values there are no ranges
        for start in range(0, self.numel, step):
            yield start, min(start + step, self.numel)

    def values(self, start: int, stop: int) -> Tensor:
        """The result of a range from `ranges()`, flat."""
        keywords = self.call.keywords(self)
        if "offset" in self.call.method.uses:
            # into the map that is kept: all else in it holds for the whole tensor
            keywords["offset"] = start
        for name in self.call.method.auxiliary:
            keywords[name] = self.operands.auxiliary(name, start, stop)
        operands = self.operands.values(start, stop)
        if self.split != "element" and len(self.shape) > 1:
            operands = [x.reshape(-1, *self.shape[1:]) for x in operands]
        found: Tensor = self.call(operands, keywords).reshape(-1)
        return found

    def whole(self, *, factors: bool = False) -> Tensor | LowRank:
        """The whole result as a matrix [m, n]; of linear methods, where `factors`, in factors if the operands are."""
        if factors and self.call.method.linear and self.split == "element":
            matrices = [self.operands.matrix(i, factors=True) for i in range(self.count)]
            return weighted_total(matrices, self.call.coefficients(self))
        # a method may hand back its operand, which is a buffer that the next range overwrites
        parts = [self.values(start, stop).clone() for start, stop in self.ranges()]
        return torch.cat(parts).reshape(matrix_shape(self.shape))

    def release(self) -> None:
        """Drop what is kept for further ranges."""


class Matrices(Sequence["Tensor | LowRank"]):
    """A step's operands as matrices, each read anew when it is asked for."""

    def __init__(self, operands: Operands, *, factors: bool) -> None:
        self.operands, self.factors = operands, factors

    def __len__(self) -> int:
        return self.operands.count

    @overload
    def __getitem__(self, index: int) -> Tensor | LowRank: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor | LowRank]: ...
    def __getitem__(self, index: int | slice) -> Tensor | LowRank | list[Tensor | LowRank]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        # not kept: one dense delta at a time is what the plan's footprint counts
        return self.operands.matrix(range(len(self))[index], factors=self.factors)


class MatrixWork(StepWork):
    """A subspace method on a matrix: its result is computed at once, and kept until the last range is taken."""

    _result: Tensor | LowRank | None = None

    def prepare(self) -> None:
        self.whole()

    def whole(self, *, factors: bool = False) -> Tensor | LowRank:
        if self._result is None:
            keywords, method = dict(self.call.keywords(self)), self.call.method
            cache = self.context.cache
            # only models' tensors have an identity by which another run finds what was kept
            if cache is not None and "memo" in keywords and isinstance(self.operands, ModelOperands):
                keywords["memo"] = CachedMemo(cache, self.shape, self.context.device, self.operands.identity)
            for name in method.auxiliary:
                keywords[name] = self.operands.auxiliary(name, 0, self.numel)
            found: Tensor | LowRank = self.call(Matrices(self.operands, factors=method.low_rank), keywords)
            self._result = found
        return self._result

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Whole rows, about a chunk of values at a time: part of the arithmetic, the same for any block size."""
        columns = max(1, math.prod(self.shape[1:]))
        step = max(1, 4 * CHUNK // columns) * columns
        for start in range(0, self.numel, step):
            yield start, min(start + step, self.numel)

    def values(self, start: int, stop: int) -> Tensor:
        found = self.whole()
        if isinstance(found, LowRank):
            # a range is whole rows, so that factors are multiplied out a few rows at a time
            columns = math.prod(self.shape[1:])
            return found.rows(start // columns, stop // columns).reshape(-1)
        return found.reshape(-1)[start:stop]

    def release(self) -> None:
        self._result = None


class StepOperands:
    """What an earlier step has made, as the one operand of the next."""

    count = 1

    def __init__(self, earlier: StepWork) -> None:
        self.earlier = earlier
        self._whole: Tensor | None = None

    def values(self, start: int, stop: int) -> list[Tensor]:
        # such a step gives any range; others only their own ranges, which are not those asked for here
        if self.earlier.split == "element":
            return [self.earlier.values(start, stop)]
        if self._whole is None:
            found = self.earlier.whole()
            self._whole = (found.dense() if isinstance(found, LowRank) else found).reshape(-1)
        return [self._whole[start:stop]]

    def matrix(self, index: int, *, factors: bool) -> Tensor | LowRank:
        return self.earlier.whole(factors=factors)

    def identity(self, index: int) -> None:
        return None

    def auxiliary(self, name: str, start: int, stop: int) -> list[Tensor | None]:
        raise ValueError(f"{name} belongs to the models, and this step comes after their merge")


def chain(tensor: TensorPlan, reader: Reader, *, seed: int, block: int) -> list[StepWork]:
    """A tensor's steps, each on what the one before it makes."""
    # what came of NaN must not be found by a run that would have refused it
    cache = None if reader.allow_nonfinite else reader.cache
    context = context_of(tensor, seed=seed, block=block, device=reader.device, cache=cache)
    return chained(tensor.steps, ModelOperands(tensor, reader), context)


def chained(steps: Sequence[Step], operands: Operands, context: StepContext) -> list[StepWork]:
    """Steps, the first on these operands, each further one on what the one before it makes."""
    works: list[StepWork] = []
    for step in steps:
        found = MatrixWork if step.treatment == MATRIX else StepWork
        works.append(found(step, operands, context))
        operands = StepOperands(works[-1])
    return works


def _keyword_names(function: Callable[..., object]) -> set[str]:
    return {p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}
