"""How likely each of some labels is as the whole answer to a question: all of them in one forward behind it.

The labels' tokens are a tree: what two labels begin with in common stands in it once. Its nodes follow the question as
one sequence in which each node sees the question, its ancestors and itself, at the position that it would have alone
(tree attention, as in SpecInfer, arXiv 2305.09781). The end token closes each label, so that one that another begins
with is a label of its own, and the probabilities of all texts sum to one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chorus.errors import UsageError
from chorus.files import shown
from chorus.lazy import lazy
from chorus.models.finite import need_finite

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from chorus.models.batches import Batch
else:
    torch = lazy("torch")

Odds = dict[str, "torch.Tensor"]  # label -> the log-probabilities of its tokens and its end, with gradients
Scores = dict[str, tuple[float, int]]  # label -> the sum of its tokens' log-probabilities, and how many they are
ROOT = -1  # the parent of what follows the question


@dataclass
class Tree:
    """The labels' tokens but their ends; `paths` has for each label its (node before, token) pairs, the end's last."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    paths: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def ancestors(self, node: int) -> list[int]:
        """A node and all above it."""
        found = []
        while node != ROOT:
            found.append(node)
            node = self.parents[node]
        return found


def tree_of(labels: Mapping[str, Sequence[int]], end: int) -> Tree:
    """The tree of labels, each with its tokens; `UsageError` for two of the same tokens, and for one of none."""
    tree, places, seen = Tree(), dict[tuple[int, int], int](), dict[tuple[int, ...], str]()
    for label, tokens in labels.items():
        if not tokens or tuple(tokens) in seen:
            other = seen.get(tuple(tokens))
            told = (
                f'"{shown(label)}" has the tokens of "{shown(other)}"' if other else f'"{shown(label)}" has no tokens'
            )
            raise UsageError(f"labels: {told}", "spell the labels otherwise")
        seen[tuple(tokens)] = label
        node, path = ROOT, []
        for token in tokens:
            path.append((node, token))
            if (node, token) not in places:
                places[node, token] = len(tree.tokens)
                tree.tokens.append(token)
                tree.parents.append(node)
                tree.depths.append(0 if node == ROOT else tree.depths[node] + 1)
            node = places[node, token]
        tree.paths[label] = [*path, (node, end)]
    return tree


def scores_of(odds: Odds) -> Scores:
    """The numbers alone."""
    return {label: (float(sum(tokens.tolist())), len(tokens)) for label, tokens in odds.items()}


def sums_of(odds: Odds) -> torch.Tensor:
    """The log-probability of each label [labels], in order, with gradients."""
    return torch.stack([tokens.sum() for tokens in odds.values()])


def odds_behind(model: PreTrainedModel, inputs: Batch, trees: Sequence[Tree], padding: int) -> list[Odds]:
    """Each row's labels, given questions [rows, columns] that are padded on the left, with all that belongs to them.

    `inputs` are on the model's device.
    """
    mask = inputs["attention_mask"]
    asked = model(**inputs, **_positions(model, mask), use_cache=True)
    ids, depths = _nodes(trees, padding, mask.device)
    positions = mask.sum(-1, keepdim=True) + depths
    # Omni counts positions in three dimensions, which are the same for text behind sound
    moved = getattr(model, "rope_deltas", None)
    if moved is not None:
        positions = (positions + moved.to(positions)).expand(3, -1, -1)
    decoder = _language_model(model)
    out = decoder(
        input_ids=ids, attention_mask=_mask(mask, trees, decoder.dtype), position_ids=positions,
        past_key_values=asked.past_key_values, use_cache=True,
    )  # fmt: skip
    return _told(model, asked.logits[:, -1], out.last_hidden_state, trees)


def odds_of_heard(
    model: PreTrainedModel, hidden: torch.Tensor, prefixes: Sequence[Sequence[int]], trees: Sequence[Tree]
) -> list[Odds]:
    """Each row's labels by a decoder that looks at what an encoder has heard [rows, positions, width].

    All prefixes, what the decoder is told before it writes, have one length.
    """
    from transformers.modeling_outputs import BaseModelOutput

    given = torch.tensor(prefixes, device=hidden.device)
    told = model(
        encoder_outputs=BaseModelOutput(last_hidden_state=hidden), decoder_input_ids=given, use_cache=True
    )  # fmt: skip
    ids, depths = _nodes(trees, prefixes[0][0], hidden.device)
    decoder = model.get_decoder()
    out = decoder(
        input_ids=ids, attention_mask=_mask(torch.ones_like(given), trees, hidden.dtype),
        position_ids=given.shape[1] + depths, encoder_hidden_states=hidden, past_key_values=told.past_key_values,
        use_cache=True,
    )  # fmt: skip
    return _told(model, told.logits[:, -1], out.last_hidden_state, trees)


def _nodes(trees: Sequence[Tree], padding: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The trees' tokens and how deep they stand, both [rows, nodes]."""
    width = max(len(tree.tokens) for tree in trees)
    ids = torch.full((len(trees), width), padding)
    depths = torch.zeros((len(trees), width), dtype=torch.long)
    for i, tree in enumerate(trees):
        ids[i, : len(tree.tokens)] = torch.tensor(tree.tokens)
        depths[i, : len(tree.tokens)] = torch.tensor(tree.depths)
    return ids.to(device), depths.to(device)


def _told(
    model: PreTrainedModel, last: torch.Tensor, hidden: torch.Tensor, trees: Sequence[Tree]
) -> list[Odds]:  # fmt: skip
    """Odds of hidden states [rows, nodes, width] behind logits [rows, vocabulary].

    The head is asked for one row at a time: a vocabulary of 150,000 times a tree of 100 nodes is 60 MB.
    """
    head, found = model.get_output_embeddings(), []
    for i, tree in enumerate(trees):
        # the question's own row stands last, where the index -1 of the root finds it
        logits = torch.cat([head(hidden[i, : len(tree.tokens)]).float(), last[i : i + 1].float()])
        need_finite(logits.amax(-1))
        odds = torch.log_softmax(logits, -1)
        found.append({
            label: odds[[node for node, _ in path], [token for _, token in path]] for label, path in tree.paths.items()
        })  # fmt: skip
    return found


def _positions(model: PreTrainedModel, mask: torch.Tensor) -> Batch:
    """Those of the question, where the model does not count them itself: else padding would move what follows it."""
    if hasattr(model, "rope_deltas"):
        return {}
    return {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


def _language_model(model: PreTrainedModel) -> PreTrainedModel:
    """What writes, of a model that hears too; its head stands beside it."""
    inner = model.get_decoder()
    return getattr(inner, "language_model", inner)


def _mask(question: torch.Tensor, trees: Sequence[Tree], dtype: torch.dtype) -> torch.Tensor:
    """What is added to attention [rows, 1, nodes, columns of the question + nodes]: nothing, or what hides."""
    (rows, columns), width = question.shape, max(len(tree.tokens) for tree in trees)
    seen = torch.zeros((rows, width, columns + width), dtype=torch.bool)
    seen[:, :, :columns] = question[:, None].bool().cpu()
    for i, tree in enumerate(trees):
        for node in range(len(tree.tokens)):
            seen[i, node, [columns + one for one in tree.ancestors(node)]] = True
    hidden = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    return hidden[:, None].to(question.device)
