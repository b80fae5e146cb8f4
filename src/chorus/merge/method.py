"""What a merge method is: a pure function and what its decorator says about it.

    @method("lerp", summary="...", paper="...", space="weights", models=(2, 2))
    def lerp(tensors, /, *, t: Annotated[float, Between(0, 1), "share of the second model"] = 0.5) -> Tensor: ...

The function takes an ordered sequence of tensors and keyword-only, annotated parameters, and returns one tensor.
`PerModel[float]` parameters arrive as a tuple, one value a tensor; their default is written `each(1.0)`. These
keywords are not parameters but are given by the engine to a function that names them:

    statistics   what the method's own `statistics(blocks, **parameters)` returned for the whole tensor
    offset       the flat index of the block's first value
    keys         one random key a tensor (see chorus.linalg.draws)
    role         the tensor's role
    treatment    of a subspace method: "matrix" (deltas [m, n], each a tensor or a LowRank) or "vector" (flat blocks)
    shape        of a subspace method's matrix: (m, n)
    memo         remembers what is dear to compute and does not depend on all parameters (see `Memo`)
    merge_inner  of a method with inner="within": runs its inner method on tensors that it has made (see `Method`)

So are the names in `auxiliary`: what a recipe gives beside each model, a tuple with an entry (or None) a model.

Schema, `chorus methods NAME`, the docs page, the plan and the contract tests come from here.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeVar, get_args, get_origin

from chorus.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
ENGINE_KEYWORDS = ("statistics", "offset", "keys", "role", "treatment", "shape", "memo", "merge_inner")

Space = Literal["weights", "deltas", "deltas_if_base"]
Base = Literal["required", "optional", "input", "first"]
Split = Literal["element", "row", "tensor"]
Inner = Literal["", "before", "within"]
Value = bool | int | float | str | None
Resolved = Value | tuple[Value, ...]  # a parameter of one tensor; a tuple holds one value a model


class PerModel(Sequence[T_co]):
    """Marks a parameter with one value a model; a recipe may set it under each model or for all."""


def each(value: T) -> PerModel[T]:
    """The default of a `PerModel` parameter: this value for every model.

    A plain value when it runs (the engine makes one for each model of it), typed as what the method receives.
    """
    return typing.cast(PerModel[T], value)


class Memo(Protocol):
    """Computes named tensors from some of the deltas, or finds them where the same was computed before."""

    def __call__(
        self,
        kind: str,
        models: Sequence[int],
        settings: Mapping[str, object],
        compute: Callable[[], dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """What `compute` returns, which may depend on nothing but the deltas of `models`, `kind` and `settings`."""


def compute_now(
    kind: str, models: Sequence[int], settings: Mapping[str, object], compute: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The memo that remembers nothing."""
    return compute()


def numbers(parameters: Mapping[str, Resolved], name: str) -> tuple[float, ...]:
    """The values of a parameter that has a number a model; those of models that have none are left out."""
    each = parameters[name]
    assert isinstance(each, tuple)
    return tuple(float(value) for value in each if isinstance(value, int | float))


@dataclass(frozen=True)
class Between:
    """The interval in which a parameter's values lie, closed but for `above`: then the lower end is left out."""

    low: float
    high: float
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        # as good as no upper end, which an interval must have
        if self.high >= 1e9:
            return f"{self.low:g} or more"
        return f"{'above ' * self.above}{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method, under the name that a recipe uses."""

    name: str
    keyword: str
    type: type
    per_model: bool
    required: bool
    default: Value
    doc: str
    between: Between | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Demand:
    """What a method's memory depends on: the matrix, the singular directions kept of each model, whether in factors."""

    shape: tuple[int, int]
    parameters: Mapping[str, Resolved]
    directions: tuple[int, ...]
    in_factors: bool


@dataclass(frozen=True)
class Method:
    """A merge method as everything but the arithmetic sees it.

    space: what the tensors are. "deltas" are differences to the base in float32, which the engine forms, and to
        whose merge it adds the base; "deltas_if_base" means weights where a recipe has no base.
    base: "required"; "optional"; "input": a base is one model among the others; "first": and comes before them.
    models: how many models it merges (the base not counted unless it is an input); None: no limit. The function takes
        as many tensors, or one where an inner method comes before it.
    split: into what the tensor may be cut: single elements, rows of the first dimension, or not at all.
    subspace: whether it decomposes matrices, which it then gets whole, and merges other tensors value by value; its
        parameter `treat` says which is which (see chorus.merge.arithmetic.treatment).
    low_rank: whether, of adapters, it takes the factors (chorus.linalg.low_rank.LowRank) and may return such.
    linear: whether, where it may be cut into elements, the result is one `linear_combination` of the tensors, with
        coefficients from parameters and statistics; the engine then combines the files' bytes without torch.
    symmetric: whether the order of the models is without effect.
    homogeneous: whether inputs (deltas) twice as large give a result twice as large.
    inner: whether a parameter `inner` names another method: "before" merges the models by it, and this method works on
        that result alone; "within" is given `merge_inner`, which runs it. Either way the inner method's parameters
        stand in the recipe beside this one's own.
    auxiliary: what is read beside each model's tensor (moments, Gram matrices), by the names that the function takes.
        One of the tensor's shape is cut as the tensor is, any other arrives whole.
    memory: bytes that a tensor takes which cannot be cut, besides its inputs; None: the engine's own estimate.
    check: looks at the parameters of one tensor and the number of models before any work; `ValueError` refuses.
    """

    name: str
    summary: str
    paper: str
    function: Callable[..., Any]
    space: Space
    base: Base
    models: tuple[int, int | None]
    parameters: dict[str, Parameter]
    split: Callable[[Mapping[str, Resolved]], Split]
    statistics: Callable[..., Any] | None = None
    check: Callable[[Mapping[str, Resolved], int], None] | None = None
    linear: bool = False
    symmetric: bool = True
    homogeneous: bool = True
    random: bool = False
    low_rank: bool = False
    subspace: bool = False
    inner: Inner = ""
    auxiliary: tuple[str, ...] = ()
    memory: Callable[[Demand], int] | None = None
    uses: frozenset[str] = field(default_factory=frozenset)
    recipe: str = ""
    when: str = ""

    @property
    def doc(self) -> str:
        return inspect.cleandoc(self.function.__doc__ or "")


def _load() -> None:
    import chorus.merge.methods  # noqa: F401  registers them


METHODS: Registry[Method] = Registry("merge method", "chorus.methods", _load)

F = TypeVar("F", bound=Callable[..., Any])


def method(
    name: str,
    *,
    summary: str,
    paper: str,
    space: Space,
    base: Base = "required",
    models: tuple[int, int | None] = (1, None),
    split: Split | Callable[[Mapping[str, Resolved]], Split] = "element",
    statistics: Callable[..., Any] | None = None,
    check: Callable[[Mapping[str, Resolved], int], None] | None = None,
    linear: bool = False,
    symmetric: bool = True,
    homogeneous: bool = True,
    random: bool = False,
    low_rank: bool = False,
    subspace: bool = False,
    inner: Inner = "",
    auxiliary: tuple[str, ...] = (),
    memory: Callable[[Demand], int] | None = None,
    when: str = "",
    recipe: str = "",
) -> Callable[[F], F]:
    """Register a merge method; see `Method` for what each statement means."""

    def register(function: F) -> F:
        METHODS.add(
            name,
            Method(
                name=name, summary=summary, paper=paper, function=function, space=space, base=base, models=models,
                parameters=_parameters(function, auxiliary), split=split if callable(split) else lambda _: split,
                statistics=statistics, check=check, linear=linear, symmetric=symmetric, homogeneous=homogeneous,
                random=random, low_rank=low_rank, subspace=subspace, inner=inner, auxiliary=auxiliary, memory=memory,
                uses=frozenset(ENGINE_KEYWORDS) & frozenset(inspect.signature(function).parameters),
                recipe=inspect.cleandoc(recipe), when=when,
            ),
        )  # fmt: skip
        return function

    return register


def _parameters(function: Callable[..., Any], auxiliary: Sequence[str]) -> dict[str, Parameter]:
    """What a recipe may set: the keywords that are neither the engine's nor read from files."""
    entries = inspect.signature(function).parameters.items()
    own = [
        _parameter(keyword, entry, function)
        for keyword, entry in entries
        if entry.kind is entry.KEYWORD_ONLY and keyword not in (*ENGINE_KEYWORDS, *auxiliary)
    ]
    return {parameter.name: parameter for parameter in own}


def _parameter(keyword: str, entry: inspect.Parameter, function: Callable[..., Any]) -> Parameter:
    """Read a parameter from its annotation, without resolving the others (torch's would import torch)."""
    annotation = entry.annotation
    if isinstance(annotation, str):
        annotation = eval(annotation, function.__globals__)  # noqa: S307  our own source, as typing does it
    notes: list[object] = []
    if get_origin(annotation) is Annotated:
        annotation, *notes = get_args(annotation)
    annotation = _without_none(annotation)
    per_model = get_origin(annotation) is PerModel
    if per_model:
        annotation = _without_none(*get_args(annotation))  # of PerModel[float | None] too
    choices: tuple[str, ...] = ()
    if get_origin(annotation) is Literal:
        choices, annotation = get_args(annotation), str
    required = entry.default is inspect.Parameter.empty
    return Parameter(
        name=keyword.rstrip("_"),  # lambda is one of Python's own words
        keyword=keyword,
        type=typing.cast(type, annotation),
        per_model=per_model,
        required=required,
        default=None if required else entry.default,
        doc=next((n for n in notes if isinstance(n, str)), ""),
        between=next((n for n in notes if isinstance(n, Between)), None),
        choices=choices,
    )


def _without_none(annotation: Any) -> Any:
    """X of `X | None`, anything else as it is."""
    options = [a for a in get_args(annotation) if a is not type(None)]
    return options[0] if len(options) == 1 < len(get_args(annotation)) else annotation
