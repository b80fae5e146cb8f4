"""What structures of several formats are held to: names, shapes and types of tensors; a Whisper's head and tokens."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from chorus.checkpoints.model import Model
from chorus.errors import CheckpointError, some
from chorus.export import whisper
from chorus.models.whisper_tokens import special_ids
from chorus.verify.verdict import Verdict, judged, skipped

Held = tuple[tuple[int, ...], str]  # shape and type


class OtherSourceError(CheckpointError):
    """The source is no model that the export can have been made of."""


def names_of(token: str) -> set[str]:
    """A token's name and the other that the first Whispers' tokenizers, or the later ones, have for it."""
    return {token, *(there for pair in whisper.ALIASES.items() if token in pair for there in pair)}


def other_ids(mine: Mapping[str, int], theirs: Mapping[str, int]) -> list[str]:
    """Where a tokenizer has the source's tokens under other ids; its older name is as good as its newer."""
    return [f"{name} is {mine.get(name, 'none')}, in the source's tokenizer {i}" for name, i in theirs.items()
            if i not in {mine.get(called) for called in names_of(name)}]  # fmt: skip


def refuse_other(source: Model) -> None:
    """`OtherSourceError` where the source is no Whisper."""
    if not whisper.is_whisper(source):
        kind = source.config.get("model_type") or "unknown"
        raise OtherSourceError(f"{source.label}: no Whisper, but of the type {kind}", "name what it was made of")


def other_tensors(found: Mapping[str, Held], wanted: Mapping[str, Held]) -> Iterator[str]:
    """Where the tensors of a file are others than those that its source makes."""
    for told, names in (("lacks", wanted.keys() - found.keys()), ("holds, of no use,", found.keys() - wanted.keys())):
        if names:
            yield f"{told} {some(sorted(names), 2)}"
    # in the order of the source, so that what is told first is what comes first
    for name in [name for name in wanted if name in found]:
        (shape, kind), (other, another) = found[name], wanted[name]
        if shape != other:
            yield f"{name} has the shape {list(shape)}, by the source {list(other)}"
        elif kind != another:
            yield f"{name} is {kind}, where it should be {another}"


def tied_head(names: Collection[str], source: Model, *, own: str, runtime: str) -> Verdict:
    """One table is embedding and head, in the file and in the source; `own` is how a head's name would begin."""
    what, table = "one table for embedding and head", "decoder.token_embedding.weight"
    more = [name for name in names if name.startswith(own)]
    if more:
        return judged(0, what, f"it holds a head of its own ({more[0]}), which {runtime} does not take")
    if table not in names:
        return judged(0, what, f"it lacks {table}, which is its head too")
    asked = whisper.check_whisper(source, runtime=runtime, trim=True)
    problem = next((one.problem for one in asked if "head" in one.what), "")
    return judged(0, what, f"the source's is another: {problem}" if problem else "", "tied")


def special_by_size(size: int, source: Model, runtime: str) -> Verdict:
    """The ids that a runtime gives special tokens by the vocabulary's size alone must be those of the tokenizer."""
    what, known = "ids of special tokens", whisper.token_ids(source)
    if not known:
        return skipped(0, what, "the source has no tokenizer: --tokenizer DIR")
    if size not in whisper.SIZES:
        return judged(0, what, f"of {size:,} tokens {runtime} knows none by its place")
    wrong = [f"{name} is {theirs} for {runtime}, {mine} in the tokenizer"
             for name, mine, theirs in whisper.misplaced(known, size)]  # fmt: skip
    return judged(0, what, some(wrong, 2), f"{len(special_ids(size)):,} by the size of the vocabulary")
