"""YAML read safely: settings, recipes, the front matter of cards. Everything in it is bounded and plain.

A few lines of anchors and aliases unfold to billions of nodes for whoever walks them, so the unfolded size is counted
before anything is made of them. What YAML knows beyond JSON's types (dates, sets, bytes) is not taken.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from chorus.errors import RecipeError
from chorus.files import MAX_RECIPE, read_text, shown

MAX_NODES, MAX_DEPTH, MAX_ALIASES = 100_000, 40, 1000
KINDS = ("str", "int", "float", "bool", "null", "map", "seq", "merge", "value")
TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in KINDS)
MERGE = "tag:yaml.org,2002:merge"  # the key <<, which takes in another map's keys


# not libyaml's CSafeLoader, which composes its nodes in C and never calls what is overridden here
class Loader(yaml.SafeLoader):
    """SafeLoader that refuses repeated keys, other types than JSON's, and documents that unfold without end."""

    nodes = depth = aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
        self.nodes += 1
        self.depth += 1
        if self.nodes > MAX_NODES or self.depth > MAX_DEPTH or self.aliases > MAX_ALIASES:
            raise _too_large()
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def compose_document(self) -> yaml.Node | None:
        document = super().compose_document()
        if document is not None and self.aliases:
            _unfolded(document, {})
        return document

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        # `!!str` of a list, `!!int abc`: PyYAML's constructors fail in as many ways as there are types
        if node.tag not in TAGS:
            raise yaml.YAMLError(f"{_line(node)}: a value of the type {node.tag} is not taken here")
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError):
            value = shown(node.value) if isinstance(node, yaml.ScalarNode) else "this"
            raise yaml.YAMLError(f"{_line(node)}: {value} is not of the type {node.tag.rpartition(':')[2]}") from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        # before the keys of other maps are merged in, which these may replace
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = "<<" if key_node.tag == MERGE else self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.YAMLError(f"{_line(key_node)}: a key must be a text or a number")
            if key in seen:  # YAML takes the last of two equal keys in silence
                raise yaml.YAMLError(f"{_line(node)}: the key {shown(repr(key))} stands twice in one map")
            seen.add(key)
        return super().construct_mapping(node, deep)


# 2024-13-45 is a text here, as is 2024-12-24: no setting is a date
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag in TAGS]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class TextLoader(Loader):
    """The same, every scalar a text: in a list of languages `no` is Norwegian."""


TextLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag.endswith((":null", ":merge"))]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"


def _too_large() -> yaml.YAMLError:
    return yaml.YAMLError(
        f"the document is too large, too deep or too much aliased (limits: {MAX_NODES:,} nodes, "
        f"depth {MAX_DEPTH}, {MAX_ALIASES:,} aliases)"
    )


def _unfolded(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Nodes and depth below a node, each alias counted as what it stands for."""
    if id(node) in known:
        found = known[id(node)]
        if found is None:  # under way: the node holds itself
            raise yaml.YAMLError(f"{_line(node)}: an alias stands inside what it stands for")
        return found
    known[id(node)] = None
    below = node.value if isinstance(node, yaml.SequenceNode | yaml.MappingNode) else ()
    parts = [_unfolded(n, known) for one in below for n in (one if isinstance(one, tuple) else (one,))]
    size, depth = 1 + sum(n for n, _ in parts), 1 + max((d for _, d in parts), default=0)
    if size > MAX_NODES or depth > MAX_DEPTH:
        raise _too_large()
    known[id(node)] = size, depth
    return size, depth


def parse_yaml(text: str, source: str, loader: type[Loader] = Loader) -> list[Any]:
    """The documents of a YAML text, of JSON's types alone; `RecipeError` where it is none."""
    try:
        return list(yaml.load_all(text, Loader=loader))  # a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise RecipeError([f"not readable as YAML: {_told(error)}"], source=source) from None


def _told(error: Exception) -> str:
    """One line of what the parser says in five, the first of them of a place that it has no name for."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    if isinstance(error, ReaderError):  # a NUL, or another letter that is none in YAML
        return f"{shown(repr(chr(error.character)))} at position {error.position:,} is no text"
    return str(error)


def recipe_text(path: Path) -> str:
    """The text of a file of settings or a recipe; `RecipeError` where it cannot be read."""

    def refused(message: str, hint: str) -> RecipeError:
        where = f"{shown(path)}: "
        return RecipeError([message.removeprefix(where)], "give the path of a YAML or JSON file", shown(path))

    return read_text(path, MAX_RECIPE, raises=refused, what="file of settings")


def read_yaml(path: Path) -> list[Any]:
    """The documents of a YAML (or JSON) file of settings."""
    return parse_yaml(recipe_text(path), shown(path))
