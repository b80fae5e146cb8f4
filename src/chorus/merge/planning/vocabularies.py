"""Whether the inputs' token ids mean the same: rows of different words must not be averaged."""

from __future__ import annotations

from collections.abc import Iterable

from chorus.checkpoints.vocabulary import Misfits, Vocabulary, difference, same_files, shown_ids, vocabulary_of
from chorus.errors import some
from chorus.merge.arithmetic.tensor_plan import TensorPlan
from chorus.merge.planning.beside import has_vocabulary
from chorus.merge.planning.inputs import Inputs, vocabulary_sizes

ROWS = ("embeddings", "lm_head")  # the components that have a row for each token


def check_vocabularies(inputs: Inputs, tensors: Iterable[TensorPlan]) -> None:
    """Compare every model's tokenizer with the result's.

    Tokens that changed places are a problem where their rows are merged; renamed or added ones a warning, for
    fine-tunes give reserved ids a name.
    """
    chosen = inputs.donor if inputs.tokenizer is None else inputs.tokenizer
    # most merges are of fine-tunes of one base, whose tokenizers are the same bytes: none of them is parsed
    others = [
        i
        for i, one in enumerate(inputs.beside)
        if i != chosen and has_vocabulary(one) and not same_files(inputs.beside[chosen].carried, one.carried)
    ]
    mine = vocabulary_of(inputs.beside[chosen].carried) if others else None
    if mine is None:
        return
    merged = _merged(tensors)
    for i in others:
        theirs = vocabulary_of(inputs.beside[i].carried)
        if theirs is not None:
            _compare(inputs, chosen, i, (mine, theirs), together=i in merged)


def _merged(tensors: Iterable[TensorPlan]) -> set[int]:
    """The models whose rows of tokens are merged with another's."""
    found: set[int] = set()
    for tensor in tensors:
        if tensor.role.component in ROWS and tensor.steps:
            models = {i.model for i in (*tensor.inputs, *([tensor.base] if tensor.base else []))}
            found |= models if len(models) > 1 else set()
    return found


def _compare(inputs: Inputs, chosen: int, i: int, both: tuple[Vocabulary, Vocabulary], *, together: bool) -> None:
    donor, model = inputs.models[chosen], inputs.models[i]
    rows = min(vocabulary_sizes(donor), vocabulary_sizes(model)) or len(both[0].tokens)
    found = difference(*both, rows)
    if found.moved:
        text = (
            f"{len(found.moved)} token ids of {model.label} mean other tokens than in {donor.label}: "
            f"{shown_ids(found.moved, model.label, donor.label)}"
        )
        if together:
            inputs.problems.append(
                f"{text}; rows of different words would be merged: "
                "take models of one tokenizer, or exclude embeddings and lm_head"
            )
        else:
            inputs.warnings.append(text)
    _tell_names(inputs, donor.label, model.label, found)


def _tell_names(inputs: Inputs, donor: str, model: str, found: Misfits) -> None:
    if found.renamed:
        told = shown_ids(found.renamed, model, donor)
        inputs.warnings.append(f"{len(found.renamed)} token ids have another name in {model} than in {donor}: {told}")
    if found.lacking:
        inputs.warnings.append(
            f"the tokenizer of {model} has {len(found.lacking)} tokens that the result's, from {donor}, lacks: "
            f"{some(found.lacking, 3)} (tokenizer_source: takes another's)"
        )
