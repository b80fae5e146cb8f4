"""The encoder's graph: a log-mel spectrum in, and what every layer of the decoder attends to out.

Keys and values of the decoder's attention to the sound belong here, so that they are computed once a sound.
"""

from __future__ import annotations

from chorus.export.onnx.graph import FLOAT, Graph

# of the names of sherpa-onnx's graphs
MEL, CROSS = "mel", ("n_layer_cross_k", "n_layer_cross_v")
# in Whisper's scale, log10 of an energy plus 4, by 4: the least energy, 1e-10, and how far below its top a sound goes
LEAST, RANGE = -1.5, 2.0


def encoder(graph: Graph, dims: dict[str, int]) -> None:
    """`mel` [n_audio, bins, T], T at most twice the positions -> keys, values [layers, n_audio, positions, width]."""
    mel = graph.takes(MEL, FLOAT, ["n_audio", dims["n_mels"], "T"])
    mel = _whole_window(graph, mel, 2 * dims["n_audio_ctx"])
    x = graph.gelu(_convolution(graph, mel, "model.encoder.conv1", 1))
    x = graph.gelu(_convolution(graph, x, "model.encoder.conv2", 2))
    x = graph.op("Transpose", x, perm=[0, 2, 1])
    x = graph.op("Add", x, graph.weight("model.encoder.embed_positions.weight"))
    for layer in range(dims["n_audio_layer"]):
        x = _block(graph, x, f"model.encoder.layers.{layer}", dims["n_audio_head"], dims["n_audio_state"])
    x = graph.norm(x, "model.encoder.layer_norm")
    shape: list[int | str] = [dims["n_text_layer"], "n_audio", dims["n_audio_ctx"], dims["n_text_state"]]
    for output, projection in zip(CROSS, ("k_proj", "v_proj"), strict=True):
        layers = [
            graph.linear(x, f"model.decoder.layers.{layer}.encoder_attn.{projection}", bias=projection == "v_proj")
            for layer in range(dims["n_text_layer"])
        ]
        stacked(graph, layers, to=output)
        graph.gives(output, shape)


def _whole_window(graph: Graph, mel: str, frames: int) -> str:
    """The window that Whisper was trained on: silence where frames are zeros, and from their last one on.

    sherpa-onnx puts some seconds of zeros behind a sound, which are none: with them texts end otherwise. Silence is
    what lies farthest below the loudest of the sound.
    """
    silent = graph.op("Equal", graph.op("ReduceMax", graph.op("Abs", mel), axes=[1], keepdims=1), graph.constant(0.0))
    sound = graph.op("Where", silent, graph.constant(LEAST), mel)
    top = graph.op("ReduceMax", sound, axes=[1, 2], keepdims=1)
    silence = graph.op("Max", graph.op("Sub", top, graph.constant(RANGE)), graph.constant(LEAST))
    left = graph.op("Sub", graph.constant([frames]), graph.op("Shape", mel, start=2, end=3))
    shape = graph.op("Concat", graph.op("Shape", mel, start=0, end=2), left, axis=0)
    return graph.op("Concat", graph.op("Where", silent, silence, mel), graph.op("Expand", silence, shape), axis=2)


def stacked(graph: Graph, parts: list[str], to: str = "") -> str:
    """Tensors of one shape along a new first dimension."""
    first = graph.constant([0])
    return graph.op("Concat", *(graph.op("Unsqueeze", one, first) for one in parts), to=to, axis=0)


def attention(graph: Graph, queries: str, keys: str, values: str, heads: int, width: int, mask: str = "") -> list[str]:
    """[joined heads, weights of attention]: queries [b, n, width] over keys and values [b, m, width].

    `mask` [n, m] is added to the products before softmax.
    """
    split = graph.constant([0, 0, heads, width // heads])
    scaled = graph.op("Mul", queries, graph.constant((width // heads) ** -0.5))
    queries = graph.op("Transpose", graph.op("Reshape", scaled, split), perm=[0, 2, 1, 3])
    keys = graph.op("Transpose", graph.op("Reshape", keys, split), perm=[0, 2, 3, 1])
    values = graph.op("Transpose", graph.op("Reshape", values, split), perm=[0, 2, 1, 3])
    products = graph.op("MatMul", queries, keys)
    weights = graph.op("Softmax", graph.op("Add", products, mask) if mask else products, axis=-1)
    heard = graph.op("Transpose", graph.op("MatMul", weights, values), perm=[0, 2, 1, 3])
    return [graph.op("Reshape", heard, graph.constant([0, 0, width])), weights]


def widened(graph: Graph, x: str, block: str) -> str:
    """A block's last part: wide, gelu, and narrow again, added to what went in."""
    wide = graph.gelu(graph.linear(graph.norm(x, f"{block}.final_layer_norm"), f"{block}.fc1"))
    return graph.op("Add", x, graph.linear(wide, f"{block}.fc2"))


def _block(graph: Graph, x: str, block: str, heads: int, width: int) -> str:
    normed = graph.norm(x, f"{block}.self_attn_layer_norm")
    queries, keys, values = (
        graph.linear(normed, f"{block}.self_attn.{one}_proj", bias=one != "k") for one in ("q", "k", "v")
    )
    heard, _ = attention(graph, queries, keys, values, heads, width)
    return widened(graph, graph.op("Add", x, graph.linear(heard, f"{block}.self_attn.out_proj")), block)


def _convolution(graph: Graph, x: str, layer: str, stride: int) -> str:
    weights = graph.weight(f"{layer}.weight", "convolution"), graph.weight(f"{layer}.bias")
    return graph.op("Conv", x, *weights, kernel_shape=[3], strides=[stride], pads=[1, 1])
