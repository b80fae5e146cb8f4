"""A model that is part of a larger one, as Qwen2.5-Omni's thinker is: taken out of the whole, and put back into it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from chorus.checkpoints.beside import beside
from chorus.checkpoints.configs import check_configs
from chorus.checkpoints.lazy_tensor import Checkpoint
from chorus.checkpoints.lineage import facts_in, joined, license_text, lineage_of
from chorus.checkpoints.model import Model
from chorus.checkpoints.names import named
from chorus.checkpoints.spelling import completed, respelled
from chorus.checkpoints.ties import settled, untied_alike
from chorus.checkpoints.vocabulary import RESERVED, difference, same_files, shown_ids, vocabulary_of
from chorus.errors import CheckpointError, some
from chorus.plain import JsonMap, JsonObject

ITS_OWN = "name the whole model that it was taken from, or trained on"


@dataclass(frozen=True)
class Composite:
    """A class that holds a model of another class: its tensors behind a prefix, its config under a key."""

    whole: str
    part: str
    prefix: str
    key: str

    @property
    def name(self) -> str:
        """What the part is called."""
        return self.prefix.rstrip(".")

    def config(self, whole: JsonMap) -> JsonObject:
        """The part's config, of the whole's."""
        inner: JsonObject = dict(whole.get(self.key) or {})
        # the whole says of both in which type it is stored
        stored = {key: whole[key] for key in ("dtype", "torch_dtype") if key in whole and inner.get(key) is None}
        return {**inner, **stored, "architectures": [self.part]}


COMPOSITES = (
    Composite(
        "Qwen2_5OmniForConditionalGeneration", "Qwen2_5OmniThinkerForConditionalGeneration", "thinker.",
        "thinker_config",
    ),
)  # fmt: skip


def composite_of(model: Model) -> Composite | None:
    """What a model holds, where it is a whole."""
    return next((one for one in COMPOSITES if one.whole == model.architecture), None)


def is_part_of(model: Model, whole: Model) -> bool:
    """Whether a model is of the class that the other one holds."""
    found = composite_of(whole)
    return found is not None and found.part == model.architecture


def outside(whole: Model) -> list[str]:
    """The tensors of a whole that are not its part's, as its file calls them."""
    found = composite_of(whole)
    prefix = found.prefix if found is not None else ""
    return [name for own, name in whole.spelling.items() if not own.startswith(prefix)]


def part_of(whole: Model) -> Model:
    """What a whole holds, as a model of its own under names without the prefix; any other model as it is."""
    found = composite_of(whole)
    if found is None:
        return whole
    others, start = set(outside(whole)), len(found.prefix)
    tensors = {name[start:]: tensor for name, tensor in whole.checkpoint.items() if name not in others}
    return replace(
        whole,
        checkpoint=Checkpoint(tensors, whole.label),
        config=found.config(whole.config),
        known_as=found.part,
        spelling={own[start:]: name[start:] for own, name in whole.spelling.items() if name not in others},
    )


def within(part: Model, whole: Model) -> Model:
    """A whole with another part, under the part's label and with its files; names and shapes are not compared."""
    found, before = composite_of(whole), part_of(whole)
    assert found is not None
    mine, its = _alike(part, before)
    config = whole.config
    if its.config != before.config:  # the head has values of its own, of which the config must tell
        inner = {key: value for key, value in its.config.items() if key != "architectures"}
        config = {**config, found.key: {**config[found.key], **inner}}
    tensors = {name: whole.checkpoint[name] for name in outside(whole)}
    spelling = {own: name for own, name in whole.spelling.items() if name in tensors}
    return replace(
        part,
        checkpoint=Checkpoint(
            tensors | {f"{found.prefix}{name}": tensor for name, tensor in mine.checkpoint.items()}, part.label
        ),
        config=config,
        known_as=found.whole,
        spelling=spelling | {f"{found.prefix}{own}": f"{found.prefix}{name}" for own, name in mine.spelling.items()},
    )


def _alike(part: Model, other: Model) -> tuple[Model, Model]:
    """Two parts in the second's spelling, tied in the one way in which neither loses anything."""
    part = completed(respelled(part, other), other)
    mine, its = untied_alike([settled(part), settled(other)], donor=1)
    return mine, its


def put_into(part: Model, whole: Model) -> Model:
    """The whole model with another part, all else and the files beside it as they are.

    Raises `CheckpointError` where the part is another model's, or of other names, shapes, arithmetic or tokens.
    """
    whole, part = named(whole), named(part)
    found = composite_of(whole)
    if found is None:
        known = ", ".join(one.whole for one in COMPOSITES)
        raise CheckpointError(
            f"{whole.label}: a {whole.architecture or '?'} holds no other model", f"what does: {known}"
        )
    told = []
    # a merge of wholes is one too
    if composite_of(part) is found:
        told = [f"{part.label}: its {found.name} alone is taken, all else is {whole.label}'s"]
        part = part_of(part)
    if part.architecture != found.part:
        raise CheckpointError(
            f"{part.label} is a {part.architecture or '?'}, what {whole.label} holds a {found.part}", ITS_OWN
        )
    mine, its = _alike(part, part_of(whole))
    _refuse(mine, its, found)
    problems, warnings = check_configs(its, mine, stacked=False, where=f"the result, from {whole.label}")
    if problems:
        raise CheckpointError("; ".join(problems), ITS_OWN)
    told += [*warnings, *_tokens(mine, its), *_types(mine, its)]
    result = within(part, whole)
    label = f"{part.label} in {whole.label}"
    return replace(
        result,
        label=label,
        checkpoint=Checkpoint(result.checkpoint, label),
        directory=whole.directory,
        tokenizer_directory=whole.tokenizer_directory,
        beside=whole.beside,
        generation=whole.generation,
        revision=whole.revision,
        recipe=part.recipe or facts_in(part.directory).get("recipe", {}),  # by which the part was merged
        # two files of one name
        files=whole.files | {f"{part.label}/{name}": header for name, header in part.files.items()},
        paths=whole.paths | {f"{part.label}/{name}": path for name, path in part.paths.items()},
        hub_hashes=whole.hub_hashes | {f"{part.label}/{name}": one for name, one in part.hub_hashes.items()},
        made_of={one.label: license_text(one) for one in (whole, part)} | part.made_of,
        hub_ids=tuple(dict.fromkeys([*part.hub_ids, *whole.hub_ids])),
        reads=tuple(part.places),
        trained_on=joined([lineage_of(whole), lineage_of(part)]),
        warnings=list(dict.fromkeys([*whole.warnings, *part.warnings, *told])),
    )


def _refuse(mine: Model, its: Model, found: Composite) -> None:
    """`CheckpointError` where the two parts have other tensors, or tensors of other shapes."""
    where = f"the {found.name} of {its.label}"
    for names, verb in (
        (its.checkpoint.keys() - mine.checkpoint.keys(), "lacks"),
        (mine.checkpoint.keys() - its.checkpoint.keys(), "has besides"),
    ):
        if names:
            raise CheckpointError(f"{mine.label} {verb} {some(sorted(names))}, unlike {where}", ITS_OWN)
    # the first is enough: another width would list hundreds
    for name, tensor in its.checkpoint.items():
        have, want = mine.checkpoint[name].shape, tensor.shape
        if have == want:
            continue
        if have[1:] == want[1:] and mine.config.get("text_config", {}).get("vocab_size") == have[0]:
            raise CheckpointError(
                f"{mine.label} has a vocabulary of {have[0]:,} tokens, {where} of {want[0]:,} ({name}), which all that "
                "hears it goes by",
                f"merge it on a base of {want[0]:,} tokens; rows that were only added are cut by --truncate-vocabulary",
            )
        raise CheckpointError(f"{name}: {mine.label} has the shape {list(have)}, {where} {list(want)}", ITS_OWN)


def _tokens(mine: Model, its: Model) -> list[str]:
    """Tokens that the part's tokenizer has besides, for the whole keeps its own; `CheckpointError` for other ones."""
    files = [beside(one).carried for one in (its, mine)]
    if same_files(*files):
        return []
    known, theirs = map(vocabulary_of, files)
    if known is None or theirs is None:
        return []
    found = difference(known, theirs, len(known.tokens))
    other = found.moved + [one for one in found.renamed if not RESERVED.search(one[1])]
    if other:
        raise CheckpointError(
            f"{mine.label}: {len(other):,} of its tokens are others in {its.label}: "
            f"{shown_ids(other, mine.label, its.label)}",
            ITS_OWN,
        )
    more = [token for i, token in sorted(theirs.tokens.items()) if i not in known.tokens]
    return [f"{its.label}'s tokenizer has no {some(more)}, as {mine.label}'s has: --tokenizer DIR"] if more else []


def _types(mine: Model, its: Model) -> list[str]:
    stored = [", ".join(sorted({tensor.stored_dtype for tensor in one.checkpoint.values()})) for one in (mine, its)]
    if stored[0] == stored[1]:
        return []
    return [f"{mine.label} is stored in {stored[0]}, {its.label} in {stored[1]}: --type writes all in one"]
