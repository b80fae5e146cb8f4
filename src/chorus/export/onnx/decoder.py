"""The decoder's graph: tokens in, and after each of them the logits of what follows, out.

What it has computed of the tokens before goes in and out as two tensors of all layers and all positions.
"""

from __future__ import annotations

from collections.abc import Sequence

from chorus.export.onnx.encoder import CROSS, attention, stacked, widened
from chorus.export.onnx.graph import FLOAT, INT64, Graph

EMBEDDING, HEAD = "model.decoder.embed_tokens.weight", "proj_out.weight"
# of the names of sherpa-onnx's graphs
TOKENS, OFFSET, LOGITS, ATTENTION = "tokens", "offset", "logits", "cross_attention_weights"
TAKEN, GIVEN = (tuple(f"{side}_n_layer_self_{one}_cache" for one in "kv") for side in ("in", "out"))
INPUTS, OUTPUTS = (TOKENS, *TAKEN, *CROSS, OFFSET), (LOGITS, *GIVEN)  # in the order in which they are taken
NEVER = -1e9  # added to a product of attention: softmax gives it nothing
FAR = 1 << 31  # a slice's end: of a dimension of any size its own


def decoder(graph: Graph, dims: dict[str, int], heads: Sequence[Sequence[int]], *, tied: bool) -> None:
    """`tokens` [n_audio, n], of which `offset` [1] stand before -> `logits` [n_audio, n, vocabulary].

    heads: of alignment, as (layer, head): their attention to the sound is an output, [n_audio, heads, n, frames].
    """
    width, layers = dims["n_text_state"], dims["n_text_layer"]
    tokens = graph.takes(TOKENS, INT64, ["n_audio", "n_tokens"])
    shape: list[int | str] = [layers, "n_audio", dims["n_text_ctx"], width]
    caches = [graph.takes(name, FLOAT, shape) for name in TAKEN]
    crossed = [graph.takes(name, FLOAT, [layers, "n_audio", dims["n_audio_ctx"], width]) for name in CROSS]
    offset = graph.takes(OFFSET, INT64, [1])

    total = graph.op("Add", offset, graph.op("Shape", tokens, start=1, end=2))
    x = _embedded(graph, tokens, offset, total)
    mask = _mask(graph, offset, total)
    before = [graph.sliced(cache, graph.constant([0]), offset, 2) for cache in caches]
    new: list[list[str]] = [[], []]  # keys, values of each layer
    aligned = []
    for layer in range(layers):
        block = f"model.decoder.layers.{layer}"
        normed = graph.norm(x, f"{block}.self_attn_layer_norm")
        queries, *found = (
            graph.linear(normed, f"{block}.self_attn.{one}_proj", bias=one != "k") for one in ("q", "k", "v")
        )
        which = graph.constant(layer)
        for every, one in zip(new, found, strict=True):
            every.append(one)
        past = [graph.op("Gather", one, which, axis=0) for one in before]
        keys, values = (graph.op("Concat", *pair, axis=1) for pair in zip(past, found, strict=True))
        heard, _ = attention(graph, queries, keys, values, dims["n_text_head"], width, mask)
        x = graph.op("Add", x, graph.linear(heard, f"{block}.self_attn.out_proj"))
        queries = graph.linear(graph.norm(x, f"{block}.encoder_attn_layer_norm"), f"{block}.encoder_attn.q_proj")
        keys, values = (graph.op("Gather", one, which, axis=0) for one in crossed)
        heard, weights = attention(graph, queries, keys, values, dims["n_text_head"], width)
        x = graph.op("Add", x, graph.linear(heard, f"{block}.encoder_attn.out_proj"))
        if own := [head for i, head in heads if i == layer]:
            aligned.append(graph.op("Gather", weights, graph.constant(own), axis=1))
        x = widened(graph, x, block)
    _head(graph, graph.norm(x, "model.decoder.layer_norm"), dims, tied=tied)
    _caches(graph, caches, before, new, total, shape)
    if aligned:
        graph.op("Concat", *aligned, to=ATTENTION, axis=1)
        graph.gives(ATTENTION, ["n_audio", len(heads), "n_tokens", dims["n_audio_ctx"]])


def _embedded(graph: Graph, tokens: str, offset: str, total: str) -> str:
    """[n_audio, n, width]: tokens and their positions."""
    table = graph.weight(EMBEDDING, "table")
    if graph.quantised:  # its rows are columns there
        found = graph.op("Cast", graph.op("Gather", table, tokens, axis=1), to_type=FLOAT)
        scales = graph.op("Gather", f"{EMBEDDING}_scale", tokens, axis=0)
        scales = graph.op("Unsqueeze", scales, graph.constant([-1]))
        found = graph.op("Mul", graph.op("Transpose", found, perm=[1, 2, 0]), scales)
    else:
        found = graph.op("Gather", table, tokens, axis=0)
    positions = graph.weight("model.decoder.embed_positions.weight")
    return graph.op("Add", found, graph.sliced(positions, offset, total, 0))


def _mask(graph: Graph, offset: str, total: str) -> str:
    """[n, offset + n]: a token sees those before it, and itself."""
    none = graph.constant([0])
    start, stop = (graph.op("Squeeze", one, none) for one in (offset, total))
    mine = graph.op("Unsqueeze", graph.op("Range", start, stop, graph.constant(1)), graph.constant([1]))
    all_of_them = graph.op("Unsqueeze", graph.op("Range", graph.constant(0), stop, graph.constant(1)), none)
    later = graph.op("Greater", all_of_them, mine)
    return graph.op("Where", later, graph.constant(NEVER), graph.constant(0.0))


def _head(graph: Graph, x: str, dims: dict[str, int], *, tied: bool) -> None:
    """Every token's product with what was decoded; tied to the embedding, whose table is stored once."""
    if tied and not graph.quantised:
        # Gemm takes the table as it lies, and is nearly twice as fast as the table times columns; it knows two
        # dimensions alone
        flat = graph.op("Reshape", x, graph.constant([-1, dims["n_text_state"]]))
        found = graph.op("Gemm", flat, graph.weight(EMBEDDING, "table"), transB=1)
        batch = graph.op("Shape", x, start=0, end=2)
        shape = graph.op("Concat", batch, graph.constant([dims["n_vocab"]]), axis=0)
        graph.op("Reshape", found, shape, to=LOGITS)
    elif tied:
        graph.op("Identity", graph.product(x, EMBEDDING, "table"), to=LOGITS)
    else:
        graph.op("Identity", graph.product(x, HEAD), to=LOGITS)
    graph.gives(LOGITS, ["n_audio", "n_tokens", dims["n_vocab"]])


def _caches(
    graph: Graph, caches: Sequence[str], before: Sequence[str], new: Sequence[list[str]], total: str,
    shape: Sequence[int | str],
) -> None:  # fmt: skip
    """The new positions between those before and those after, which are as they were."""
    end = graph.constant([FAR])
    for cache, past, found, name in zip(caches, before, new, GIVEN, strict=True):
        rest = graph.sliced(cache, total, end, 2)
        graph.op("Concat", past, stacked(graph, found), rest, to=name, axis=2)
        graph.gives(name, shape)
