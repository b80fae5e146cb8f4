"""Published recipes: keys of theirs that mean what another key means here, and words for those that mean nothing.

mergekit reads over every key that it does not know. A recipe that was published with one may have it by mistake, so
that such a key is refused with the place where it belongs, or with what it would have done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from chorus.errors import RecipeError, nearest
from chorus.merge.method import METHODS

Document = Mapping[str, object]

# mergekit's methods that are not here yet, and what to do
NOT_HERE = {
    "della": "take dare_ties, which drops by chance alone",
    "della_linear": "take dare_linear, which drops by chance alone",
    "nearswap": "take another (chorus methods)",
    "arcee_fusion": "take another (chorus methods)",
    "ram": "take another (chorus methods)",
    "ramplus_tl": "take another (chorus methods)",
}
TOP = ("dtype", "out_dtype", "tokenizer_source", "chat_template", "base_model", "merge_method", "seed", "random_seed")
# parameters of mergekit that no method here takes
WITHOUT_EFFECT = {
    "embed_slerp": "mergekit's first tokenizer merging had it, today's releases read over it: remove it",
    "epsilon": "it is of della and ram, which are not here",
}
ONLY_SOURCE = "write tokenizer_source: base, or a model's name; building a tokenizer comes with a later version"


def in_our_words(document: Document) -> tuple[dict[str, object], list[str]]:
    """The recipe with its keys as the schema calls them, and what is wrong with those that have no name in it."""
    found, problems = dict(document), []
    if "random_seed" in found:  # as mergekit's flag is called
        if "seed" in found:
            problems.append("random_seed: is another name of seed, and both are given")
        found["seed"] = found.pop("random_seed")
    tokenizer = found.get("tokenizer")
    if tokenizer is not None:
        if found.get("tokenizer_source") is not None:
            problems.append("tokenizer and tokenizer_source cannot both be given")
        elif isinstance(tokenizer, Mapping) and _only_a_source(tokenizer):
            found["tokenizer_source"] = tokenizer["source"]
        else:
            problems.append(f"tokenizer: {ONLY_SOURCE}")
        del found["tokenizer"]
    if "experts" in found and "merge_method" not in found:
        raise RecipeError(["experts: a recipe of mergekit-moe, which makes a mixture of experts; Chorus makes none"])
    for where, entry in _entries(found, ""):
        problems += _misplaced(where, entry)
    return found, problems


def _only_a_source(tokenizer: Document) -> bool:
    """Whether `tokenizer` says no more than `tokenizer_source` does."""
    return bool(tokenizer.get("source")) and not any(v for k, v in tokenizer.items() if k != "source")


def _entries(part: Document, where: str) -> Iterator[tuple[str, Document]]:
    """Every model of a recipe that nothing has checked yet, with its place."""
    for i, model in enumerate(_maps(part.get("models"))):
        yield f"{where}models[{i}]", model
    for i, one in enumerate(_maps(part.get("slices"))):
        for j, source in enumerate(_maps(one.get("sources"))):
            yield f"{where}slices[{i}].sources[{j}]", source
    modules = part.get("modules")
    for name, module in modules.items() if isinstance(modules, Mapping) else ():
        if isinstance(module, Mapping):
            yield from _entries(module, f"{where}modules.{name}.")


def _maps(value: object) -> list[Document]:
    return [one if isinstance(one, Mapping) else {} for one in value] if isinstance(value, list) else []


def _misplaced(where: str, entry: Document) -> list[str]:
    """Keys of a model that stand a level too high, or say in a word of its own what its name says."""
    problems = []
    for key in entry:
        if key in ("weight", "density", "gamma", "epsilon", "scale"):
            problems.append(f"{where}.{key}: stands under parameters, {{model: ..., parameters: {{{key}: ...}}}}")
        elif key == "revision":
            problems.append(f"{where}.revision: stands in the model's name, model: {entry.get('model')}@{entry[key]}")
    return problems


def unknown_method(name: str) -> str:
    """What is said of a method that is not registered."""
    if name in NOT_HERE:
        return f"{name} is a method of mergekit that Chorus does not have: merge with mergekit, or {NOT_HERE[name]}"
    return f'unknown merge method "{name}"{nearest(name, METHODS.names())}'


def unknown_parameter(method: str, name: str, known: Mapping[str, object]) -> str:
    """What is said of a parameter that a method does not have: where it belongs, or that it does nothing."""
    if name in TOP:
        return "belongs at the top of the recipe, beside merge_method; no method takes it"
    if name in WITHOUT_EFFECT:
        return f"{method} has no such parameter; {WITHOUT_EFFECT[name]}"
    others = [one.name for one in METHODS if name in one.parameters]
    if others:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        return f"{method} has no such parameter ({shown}: have it); here it would change nothing, remove it"
    return f"{method} has no such parameter{nearest(name, known)}"
