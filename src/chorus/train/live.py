"""A loaded base that computes as a weighted sum of models would, at weights that can be changed and have gradients.

    y = W x + b + L (diag(c) (R x))      L = [L_1 .. L_T], R = [R_1; ..; R_T], c each lambda_t repeated r_t times

One pair of thin products a module, whatever the number of adapters: nothing of the weight's size is formed, and the
gradient of lambda_t is the sum of (R_t x) * (L_t^T g) over positions. What is known only whole is put into the
parameter itself, W + sum_t lambda_t D_t, where d loss / d lambda_t = <d loss / d W, D_t> (AdaMerging, arXiv 2310.02575,
by the chain rule): the gradient of one parameter at a time, dropped as soon as it has been multiplied.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from chorus.architectures.conversion import Names
from chorus.checkpoints.composite import COMPOSITES
from chorus.errors import CheckpointError
from chorus.linalg.low_rank import LowRank

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONVOLUTIONS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d
}  # fmt: skip
Values = Callable[[], Tensor]  # flat; of what is streamed a new tensor at each call
Added = Callable[[Tensor], Tensor]  # a module's input -> what is added to its output


@dataclass
class Deltas:
    """One tensor's: by the model's place among the tasks, factors of a matrix or flat values. Others add nothing.

    `base` gives the base's own values where they are not to be held.
    """

    name: str
    group: int
    numel: int
    factors: dict[int, LowRank] = field(default_factory=dict)
    dense: dict[int, Values] = field(default_factory=dict)
    base: Values | None = None

    @property
    def rank(self) -> int:
        return sum(one.rank for one in self.factors.values())


class Live:
    """The base `model`, frozen, with the deltas on it."""

    def __init__(
        self, model: PreTrainedModel, deltas: Iterable[Deltas], shape: tuple[int, int], *,
        stored: Iterable[str],
    ) -> None:  # fmt: skip
        """`shape` is that of the weights, (tasks, groups); `stored` all tensors of the result, by the file's names.

        Raises `CheckpointError` for a tensor that the model does not have as its file does.
        """
        self.model, self.shape = model, shape
        # else autograd would keep a gradient of every weight of the base
        model.requires_grad_(False)
        model.eval()  # without dropout: the same rows have the same gradient
        first = next(model.parameters())
        self.device, self.dtype = first.device, torch.promote_types(first.dtype, torch.float32)
        self.weights = torch.zeros(shape[0] * shape[1], dtype=self.dtype, device=self.device, requires_grad=True)
        self.ranks: dict[str, int] = {}
        self._dense: list[_Dense] = []
        self._patched: list[nn.Module] = []
        own = own_names(model, stored)
        untie(model, own.values())
        places = _places(model)
        for one in deltas:
            if one.name in own:
                self._put(one, places.get(own[one.name], []))

    def _put(self, deltas: Deltas, places: list[tuple[nn.Module, str]]) -> None:
        if not places or getattr(*places[0]).numel() != deltas.numel:
            raise CheckpointError(
                f"{deltas.name}: not in the loaded model as the file has it",
                "its class keeps several of its file's tensors in one: such a model is merged and evaluated, but not "
                "changed while it is loaded",
            )
        (module, name), *_ = places
        parameter = getattr(module, name)
        factored = deltas.rank > 0 and all(attribute == "weight" and _fits(holder) for holder, attribute in places)
        dense = dict(deltas.dense)
        if factored:
            self.ranks[deltas.name] = deltas.rank
            for holder, _ in places:
                self._patch(holder, deltas)
        else:  # a place that no module computes by itself: positions, experts in one tensor
            dense |= {task: _formed(one.dense()) for task, one in deltas.factors.items() if one.rank}
        if dense:
            # by the place in the flat weights, where their gradients are summed too
            rows = {task * self.shape[1] + deltas.group: values for task, values in dense.items()}
            self._dense.append(_Dense(parameter, rows, deltas.base, self.shape[0] * self.shape[1]))

    def _patch(self, module: nn.Module, deltas: Deltas) -> None:
        weight = module.get_parameter("weight")
        left = torch.cat([one.left for one in deltas.factors.values()], 1).to(weight)
        right = torch.cat([one.right for one in deltas.factors.values()]).to(weight)
        index = torch.tensor(
            [task * self.shape[1] + deltas.group for task, one in deltas.factors.items() for _ in range(one.rank)],
            device=self.device,
        )  # fmt: skip
        added = _added(module, left, right, lambda: self.weights[index].to(weight.dtype))
        plain = module.forward

        def forward(x: Tensor) -> Tensor:
            # no sum in place: what a hook has kept of the output would change with it
            found: Tensor = plain(x) + added(x)
            return found

        module.forward = forward
        self._patched.append(module)

    def set(self, weights: Tensor) -> None:
        """Compute at these weights, [task, group], from now on; gradients begin at zero."""
        # a leaf of its own: gradients of several batches add up in it before they go on to the numbers that are learnt
        flat = weights.detach().reshape(-1)
        self.weights = flat.to(self.device, self.dtype).requires_grad_()
        for one in self._dense:
            one.set(flat)

    def gradient(self) -> Tensor:
        """d loss / d weights, [task, group], summed over all backward passes since `set`; float64."""
        found = torch.zeros(self.shape[0] * self.shape[1], dtype=torch.float64)
        if self.weights.grad is not None:
            found += self.weights.grad.double().cpu()
        for one in self._dense:
            found += one.gradient
        return found.reshape(self.shape)

    @property
    def reaches(self) -> int:
        """How many tensors have a delta."""
        return len(self.ranks) + len(self._dense)

    def close(self) -> None:
        """Give the model back as it was loaded."""
        for module in self._patched:
            vars(module).pop("forward", None)
        for one in self._dense:
            one.close()
        self._patched, self._dense = [], []


def own_names(model: PreTrainedModel, stored: Iterable[str]) -> dict[str, str]:
    """By the names of a model's file those of the module tree, which speech language models' files do not keep to.

    Of a whole that the loaded model is part of (Omni, of which the thinker is) only the part's are there.
    """
    names, stored = Names(model), list(stored)
    prefix = next((one.prefix for one in COMPOSITES if one.part == type(model).__name__), "")
    bare = {name: name.removeprefix(prefix) for name in stored if name.startswith(prefix)}
    # no name has it: the part by itself
    bare = bare or dict(zip(stored, stored, strict=True))
    return {name: next(iter(names.targets(one)), one) for name, one in bare.items()}


class _Dense:
    """A parameter that holds the merged values; `values` by the weight's place."""

    def __init__(self, parameter: nn.Parameter, values: Mapping[int, Values], base: Values | None, count: int) -> None:
        self.parameter, self.values = parameter, values
        self.base: Values = base or _formed(parameter.detach().clone())
        self.gradient = torch.zeros(count, dtype=torch.float64)
        parameter.requires_grad_()
        hooked: Any = parameter  # torch gives the hook no types
        # a hook, since all gradients at once would be as large as the model
        self.hook = hooked.register_post_accumulate_grad_hook(self._take)

    def set(self, weights: Tensor) -> None:
        self.gradient.zero_()
        with torch.no_grad():
            flat = self.parameter.view(-1)
            flat.copy_(self.base().reshape(-1))
            for place, values in self.values.items():
                # what weighs nothing is not read: it may be streamed
                if weight := float(weights[place]):
                    flat.add_(values().to(flat), alpha=weight)

    def _take(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        gradient, parameter.grad = parameter.grad.reshape(-1), None
        for place, values in self.values.items():
            # in float64: sums of millions of products that nearly cancel
            self.gradient[place] += float((gradient * values().to(gradient)).sum(dtype=torch.float64))

    def close(self) -> None:
        self.hook.remove()
        self.parameter.requires_grad_(False)
        with torch.no_grad():
            self.parameter.view(-1).copy_(self.base().reshape(-1))


def _formed(values: Tensor) -> Values:
    flat = values.reshape(-1)
    return lambda: flat


def _fits(module: nn.Module) -> bool:
    """Whether a module's output is its weight times its input, as its class says; a subclass may do otherwise."""
    if type(module) in CONVOLUTIONS:
        return bool(module.groups == 1 and module.padding_mode == "zeros")
    return type(module) in (nn.Linear, nn.Embedding, Conv1D)


def _added(module: nn.Module, left: Tensor, right: Tensor, scale: Callable[[], Tensor]) -> Added:
    """What L diag(c) R adds to a module's output, L [rows, r] and R [r, columns] as its weight is stored."""
    if isinstance(module, nn.Embedding):
        return lambda ids: (F.embedding(ids, left) * scale()) @ right
    if isinstance(module, Conv1D):  # stored [inputs, outputs]
        return lambda x: ((x @ left) * scale()) @ right
    if isinstance(module, nn.Linear):
        return lambda x: F.linear(F.linear(x, right) * scale(), left)
    convolve = CONVOLUTIONS[type(module)]
    kernel = module.get_parameter("weight").shape[2:]
    inner = right.reshape(right.shape[0], -1, *kernel)
    outer = left.reshape(*left.shape, *(1 for _ in kernel))

    def added(x: Tensor) -> Tensor:
        thin = convolve(x, inner, None, module.stride, module.padding, module.dilation)
        return convolve(thin * scale().reshape(-1, *(1 for _ in kernel)), outer)

    return added


def _places(model: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """By a parameter's name, every module that has it, tied ones together."""
    # by identity, since a tied head and its embedding are one parameter under two names
    holders: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            holders[id(parameter)].append((module, name))
    return {name: holders[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}


def untie(model: nn.Module, stored: Iterable[str]) -> None:
    """Give tensors that the result has by themselves parameters of their own, where the loaded model ties them."""
    own, taken = dict(model.named_parameters(remove_duplicate=False)), set()
    for name in stored:
        parameter = own.get(name)
        if parameter is None:
            continue
        # an adapter on an embedding leaves the head that it is tied to as it was
        if id(parameter) in taken:
            module, _, last = name.rpartition(".")
            setattr(model.get_submodule(module), last, nn.Parameter(parameter.detach().clone(), requires_grad=False))
        taken.add(id(parameter))
