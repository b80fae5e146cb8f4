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


def scores_behind(model: PreTrainedModel, inputs: Batch, trees: Sequence[Tree], padding: int) -> list[Scores]:
    """Each row's labels, given questions [rows, columns] that are padded on the left, with all that belongs to them.

    `inputs` are on the model's device. The language model is asked for hidden states, and its head for one row at a
    time: a vocabulary of 150,000 times a tree of 100 nodes is 60 MB.
    """
    asked = model(**inputs, **_positions(model, inputs["attention_mask"]), use_cache=True)
    last = asked.logits[:, -1].float()
    need_finite(last.amax(-1))
    width = max(len(tree.tokens) for tree in trees)
    rows = inputs["attention_mask"].shape[0]
    ids = torch.full((rows, width), padding, device=last.device)
    depths = torch.zeros((rows, width), dtype=torch.long, device=last.device)
    for i, tree in enumerate(trees):
        ids[i, : len(tree.tokens)] = torch.tensor(tree.tokens, device=last.device)
        depths[i, : len(tree.tokens)] = torch.tensor(tree.depths, device=last.device)
    hidden = _behind(model, inputs, asked.past_key_values, ids, depths, _seen(inputs["attention_mask"], trees, width))
    head = model.get_output_embeddings()
    found = []
    for i, tree in enumerate(trees):
        after = head(hidden[i, : len(tree.tokens)]).float()
        need_finite(after.amax(-1))
        # the question's own row stands last, where the index -1 of the root finds it
        odds = torch.log_softmax(torch.cat([after, last[i : i + 1]]), -1)
        found.append({
            label: (float(sum(odds[node, token].item() for node, token in path)), len(path))
            for label, path in tree.paths.items()
        })  # fmt: skip
    return found


def _positions(model: PreTrainedModel, mask: torch.Tensor) -> Batch:
    """Those of the question, where the model does not count them itself: else padding would move what follows it."""
    if hasattr(model, "rope_deltas"):
        return {}
    return {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


def _behind(
    model: PreTrainedModel, inputs: Batch, cache: object, ids: torch.Tensor, depths: torch.Tensor, seen: torch.Tensor
) -> torch.Tensor:
    """The language model's hidden states [rows, nodes, width] of trees behind questions that it has in its cache."""
    positions = inputs["attention_mask"].sum(-1, keepdim=True) + depths
    # Omni counts positions in three dimensions, which are the same for text behind sound
    moved = getattr(model, "rope_deltas", None)
    if moved is not None:
        positions = (positions + moved.to(positions)).expand(3, -1, -1)
    decoder = _language_model(model)
    mask = torch.zeros(seen.shape, dtype=decoder.dtype, device=ids.device)
    mask = mask.masked_fill(~seen, torch.finfo(decoder.dtype).min)[:, None]
    out = decoder(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    )  # fmt: skip
    hidden: torch.Tensor = out.last_hidden_state
    return hidden


def _language_model(model: PreTrainedModel) -> PreTrainedModel:
    """What writes, of a model that hears too; its head stands beside it."""
    inner = model.get_decoder()
    return getattr(inner, "language_model", inner)


def _seen(question: torch.Tensor, trees: Sequence[Tree], width: int) -> torch.Tensor:
    """What each node sees [rows, nodes, columns of the question + nodes]."""
    rows, columns = question.shape
    seen = torch.zeros((rows, width, columns + width), dtype=torch.bool, device=question.device)
    seen[:, :, :columns] = question[:, None].bool()
    for i, tree in enumerate(trees):
        for node in range(len(tree.tokens)):
            seen[i, node, [columns + one for one in tree.ancestors(node)]] = True
    return seen
