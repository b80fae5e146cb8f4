"""The role of a tensor, and the layout of a model: every tensor's role, its layer stacks, its tied tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

COMPONENTS = (
    "encoder",
    "decoder",
    "cross_attention",
    "projector",
    "language_model",
    "vision",
    "embeddings",
    "lm_head",
    "other",
)
KINDS = ("attention", "mlp", "norm", "convolution", "position", "embedding", "linear", "bias", "statistics", "other")
KEPT = ("position", "statistics")  # of what is not learned: computed, or measured on what the layers before give out


@dataclass(frozen=True)
class Role:
    """What a tensor is for.

    `layer` counts within `module`, the name of the layer stack that gradients run over; `place` tells whether
    the tensor stands before, in, or after that stack. `learned` is False for what the class keeps out of training:
    sinusoidal positions, running statistics, buffers, frozen layers, corrections of experts.
    """

    component: str
    kind: str
    module: str = "default"
    layer: int | None = None
    depth: float | None = None
    place: str = "before"
    learned: bool = True

    @property
    def merged(self) -> bool:
        """Whether merges and differences take it in.

        What a class freezes may differ between models all the same (a backbone that others trained, an expert's
        correction that goes by another rule than gradients). Only what is computed or measured stays one model's.
        """
        return self.learned or self.kind not in KEPT

    def __str__(self) -> str:
        layer = "" if self.layer is None else f" {self.layer}"
        return f"{self.component}{layer} / {self.kind}"


@dataclass(frozen=True)
class Stack:
    """A run of like layers: the tensors `prefix + index + "." + rest`, counted in the config under `config_key`."""

    module: str
    prefix: str
    count: int
    config_key: str | None


@dataclass(frozen=True)
class Layout:
    """The roles of all tensors of a model, by the names its file uses."""

    family: str
    roles: dict[str, Role]
    stacks: tuple[Stack, ...]
    tied: dict[str, str] = field(default_factory=dict)  # name -> the name that holds its values

    def stack(self, module: str) -> Stack | None:
        return next((s for s in self.stacks if s.module == module), None)

    @property
    def modules(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([s.module for s in self.stacks])) or ("default",)


def layer_index(name: str, prefix: str) -> tuple[int, str] | None:
    """The layer's number and the rest of the name, if the tensor stands in this stack.

    >>> layer_index("model.layers.3.mlp.up_proj.weight", "model.layers.")
    (3, 'mlp.up_proj.weight')
    """
    if not name.startswith(prefix):
        return None
    number, _, rest = name[len(prefix) :].partition(".")
    return (int(number), rest) if number.isdigit() and rest else None


def relative_depth(layer: int, count: int) -> float:
    """0 for the first layer, 1 for the last; 1 where there is only one."""
    return layer / (count - 1) if count > 1 else 1.0
