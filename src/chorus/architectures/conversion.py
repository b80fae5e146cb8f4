"""Names in files and in modules, by transformers' own tables: which tensors a file of a class holds, however spelled.

`transformers.conversion_mapping` and `core_model_loading` are semi-private: they are imported here and nowhere else.
"""

from __future__ import annotations

import re
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from chorus.architectures.inventory import Group, Inventory, Shape

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_known: weakref.WeakKeyDictionary[PreTrainedModel, Inventory] = weakref.WeakKeyDictionary()


class Transform(Protocol):
    """One entry of transformers' tables."""

    def rename_source_key(self, source_key: str) -> tuple[str, str | None]:
        """The name that it makes of a name, and the pattern that matched; None for the pattern where none did."""


class Converter(Transform, Protocol):
    """An entry that makes one tensor of several, or several of one."""

    source_patterns: list[str]
    target_patterns: list[str]
    operations: list[object]


class Names:
    """From a file's name to the module tree's, as transformers finds it when it loads."""

    def __init__(self, model: PreTrainedModel) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming

        mapping = get_model_conversion_mapping(model)
        self.renamings: list[Transform] = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        self.converters: list[Converter] = [entry for entry in mapping if not isinstance(entry, WeightRenaming)]
        self.prefix = f"{model.base_model_prefix}."
        self.tree = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        self._keys: dict[str, tuple[str, str] | None] = {}

    def key(self, name: str) -> tuple[str, str] | None:
        """What spellings of a tensor have in common, and the module tree's name; None where it is nobody's.

        Both are the same but where several tensors of a file make one of the tree, or one makes several.
        """
        if name not in self._keys:  # a model of many experts asks for tens of thousands, and several times
            self._keys[name] = self._key(name)
        return self._keys[name]

    def _rename(self, name: str) -> str:
        for renaming in self.renamings:  # each on what the one before it left, as transformers does
            name, _ = renaming.rename_source_key(name)
        return name

    def _convert(self, name: str) -> tuple[str, Converter | None, str]:
        """What the first converter that takes a name makes of it, and the pattern by which it did."""
        for converter in self.converters:
            converted, pattern = converter.rename_source_key(name)
            if pattern is not None:
                return converted, converter, pattern
        return name, None, ""

    def _key(self, name: str) -> tuple[str, str] | None:
        renamed = self._rename(name)
        converted, _, _ = self._convert(renamed)
        for key, target in ((renamed, converted), (name, name)):  # as it stands where the tables lead nowhere
            bare = target.removeprefix(self.prefix)
            if target != bare and bare in self.tree:  # transformers' order: the prefix is taken away before it is tried
                return key.removeprefix(self.prefix), bare
            if target in self.tree:
                return key, target
            if self.prefix + target in self.tree:
                return self.prefix + key, self.prefix + target
        return None

    def targets(self, name: str) -> tuple[str, ...]:
        """All of the tree's tensors that a file's tensor goes into."""
        found = self.key(name)
        if found is None:
            return ()
        _, converter, _ = self._convert(found[0])
        if converter is None or len(converter.target_patterns) == 1:
            return (found[1],)
        first = converter.target_patterns[0].replace("\\.", ".")
        every = [found[1].replace(first, one.replace("\\.", ".")) for one in converter.target_patterns]
        return tuple(one for one in every if one in self.tree)

    def order(self, name: str) -> tuple[int, int] | None:
        """Where a file's tensor lies in the tree's (number, part), if they are put side by side and nothing more."""
        found = self.key(name)
        _, converter, pattern = self._convert(found[0]) if found else ("", None, "")
        if converter is None:
            return None
        done = _done(converter)
        if done == [("Concatenate", 0)]:
            return 0, converter.source_patterns.index(pattern)
        numbers = re.findall(r"\.(\d+)(?=\.)", name)
        if done not in ([("MergeModulelist", 0)], [("MergeModulelist", 0), ("Concatenate", 1)]) or not numbers:
            return None
        return int(numbers[-1]), converter.source_patterns.index(pattern)

    def cut(self, name: str) -> bool:
        """Whether the tree's tensors are a file's one cut across, so that one behind the other they are its values."""
        found = self.key(name)
        converter = self._convert(found[0])[1] if found else None
        return converter is not None and _done(converter) == [("Chunk", 0)]


def _done(converter: Converter) -> list[tuple[str, object]]:
    """What a converter does, by the names of its operations and the dimensions that they go along."""
    return [(type(one).__name__, getattr(one, "dim", None)) for one in converter.operations]


def inventory_on_meta(model: PreTrainedModel) -> Inventory:
    """What a file of this model holds. `model` has no values, only shapes."""
    if model not in _known:
        _known[model] = _inventory(model)
    return _known[model]


def _inventory(model: PreTrainedModel) -> Inventory:
    from transformers.core_model_loading import revert_weight_conversion

    names = Names(model)
    written = {n: tuple(t.shape) for n, t in revert_weight_conversion(model, dict(model.state_dict())).items()}
    own: dict[str, str] = {}
    for name in written:
        found = names.key(name)
        own[found[0] if found else name] = name
    groups = _groups(names, written)
    others = {n: names.tree[n] for group in groups for n in (*group.wholes, *group.parts) if n not in written}

    def place(name: str) -> str | None:
        found = names.key(name)
        if found is None:
            return name if name in written else None
        if found[0] in own:
            return own[found[0]]
        return found[1] if found[1] in others and found[0] == found[1] else None

    tied = getattr(model, "all_tied_weights_keys", None) or {}
    spelled = {key: place(key) or key for key in {*tied, *tied.values()}}
    return Inventory(
        type(model).__name__,
        written,
        {spelled[copy]: spelled[source] for copy, source in tied.items()},
        place,
        _ignored(model, names),
        frozenset(_optional(model, written, names)),
        others,
        groups,
    )


def _groups(names: Names, written: dict[str, Shape]) -> tuple[Group, ...]:
    """Where a file keeps apart what the module tree has in one, or the other way round."""
    members: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in written:
        targets = names.targets(name)
        if targets and targets != (name,) and (len(targets) > 1 or names.key(name) != (targets[0], targets[0])):
            members[targets].append(name)
    groups = []
    for wholes, parts in members.items():
        if len(parts) == 1 and names.cut(parts[0]):  # queries, keys and values that a file keeps in one
            groups.append(Group(tuple(parts), wholes, in_order=True))
            continue
        places = {name: names.order(name) for name in parts}
        known = {name: place for name, place in places.items() if place is not None}
        ordered = len(wholes) == 1 and len(known) == len(parts)
        if ordered:
            parts.sort(key=lambda name: known[name])
        groups.append(Group(wholes, tuple(parts), ordered))
    return tuple(groups)


def _ignored(model: PreTrainedModel, names: Names) -> Callable[[str], bool]:
    """What transformers leaves out without a word: its lists, and buffers that are computed."""
    patterns = set(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    buffers = {name for name, _ in model.named_buffers()} - set(names.tree)

    def ignored(name: str) -> bool:
        bare = name.removeprefix(names.prefix)
        return any(re.search(p, name) for p in patterns) or bool({name, bare, names.prefix + name} & buffers)

    return ignored


def _optional(model: PreTrainedModel, written: Iterable[str], names: Names) -> Iterable[str]:
    """What a file may lack: by transformers' lists, and what is the same module under a second name."""
    patterns = set(getattr(model, "_keys_to_ignore_on_load_missing", None) or ())
    unsaved = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    first: dict[int, str] = {}
    shared = {
        name for name, value in model.named_parameters(remove_duplicate=False)
        if first.setdefault(id(value), name) != name
    }  # fmt: skip
    for name in written:
        found = names.key(name)
        module = found[1] if found else name
        if module in shared or module in unsaved or any(re.search(p, module) for p in patterns):
            yield name
