"""What a file of a model must hold: every tensor of its class by name and shape, whatever the file's spelling.

A tensor's *own name* is the one that transformers writes. Files may spell it otherwise (older names, the module tree's,
with or without the base model's prefix), and may keep several tensors as one or one as several (experts).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

Shape = tuple[int, ...]

# what older versions stored and the present one computes; of a name that the class has, none of this is asked
OBSOLETE = re.compile(
    r"(rotary_emb\.inv_freq|position_ids|masked_bias|(attn|attention)\.(bias|mask)|(cos|sin)_cached|num_batches_tracked)$"
)
# SpecAugment's mask and counters: only training uses them, and published files leave them out
UNUSED = re.compile(r"(masked_spec_embed|num_batches_tracked)$")
# of adapters that were not merged into the model that holds them
UNMERGED = re.compile(
    r"\b(base_layer|lora_\w+|lora|modules_to_save|original_module|ia3_l|oft_\w+|hada_w\d\w*|lokr_\w+)\b"
)


@dataclass(frozen=True)
class Group:
    """Tensors that files keep in two forms: the module tree's, and as transformers writes them.

    Where they are `in_order` there is one whole, and the parts one behind the other are its values as they lie.
    """

    wholes: tuple[str, ...]
    parts: tuple[str, ...]
    in_order: bool = False


@dataclass(frozen=True)
class Inventory:
    """The tensors of a class under a config.

    `shapes` has the tied copies too; `tied` says what each is a copy of, as this config ties them. `place` is the own
    name of a file's tensor (or that of a group's other form), None where it is nobody's; `ignored` tells whether
    transformers passes over a name without a word.
    """

    architecture: str
    shapes: dict[str, Shape]
    tied: dict[str, str]
    place: Callable[[str], str | None]
    ignored: Callable[[str], bool] = lambda name: False
    optional: frozenset[str] = frozenset()
    others: dict[str, Shape] = field(default_factory=dict)  # the other form of each group
    groups: tuple[Group, ...] = ()

    def review(self, shapes: Mapping[str, Shape]) -> Review:
        """Compare a file's tensors with what there must be."""
        found = Review()
        for name in shapes:
            own = name if name in self.shapes else self.place(name)
            if own is not None and own in found.names:
                found.twice.append((found.names[own], name))
            elif own is not None:
                found.names[own] = name
            elif self.passes_over(name):
                found.ignored.append(name)
            else:
                found.foreign.append(name)
        present = set(found.names)
        for group in self.groups:  # either form is all of it
            for here, there in ((group.wholes, group.parts), (group.parts, group.wholes)):
                if present.issuperset(here):
                    present.update(there)
        # the copy alone holds the values too: transformers ties its source to it
        present.update(source for copy, source in self.tied.items() if copy in present)
        found.missing = [n for n in self.shapes if n not in present and not self.may_lack(n)]
        for own, name in found.names.items():
            wanted = self.shapes.get(own, self.others.get(own))
            if wanted is not None and wanted != shapes[name]:
                found.misshapen.append((name, shapes[name], wanted))
        return found

    def passes_over(self, name: str) -> bool:
        """Whether a tensor that is not of this class may be left out without harm."""
        return self.ignored(name) or OBSOLETE.search(name) is not None

    def may_lack(self, own: str) -> bool:
        """Whether a file may do without a tensor: it is tied, or transformers does not miss it."""
        return own in self.tied or own in self.optional or UNUSED.search(own) is not None


@dataclass
class Review:
    """A file's tensors beside an inventory: own name -> the file's; and what does not fit."""

    names: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    twice: list[tuple[str, str]] = field(default_factory=list)
    misshapen: list[tuple[str, Shape, Shape]] = field(default_factory=list)

    @property
    def faults(self) -> int:
        return len(self.foreign) + len(self.missing) + len(self.twice) + len(self.misshapen)


def with_prefix(known: Iterable[str], prefix: str) -> Callable[[str], str | None]:
    """The own name of a tensor that stands there, or stands there with the base model's prefix, or without it."""
    names = frozenset(known)

    def place(name: str) -> str | None:
        candidates = (name, f"{prefix}{name}", name.removeprefix(prefix))
        return next((one for one in candidates if one in names), None)

    return place
