"""What sherpa-onnx's graphs are verified in: onnxruntime, decoding as sherpa-onnx does, and sherpa-onnx itself."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec

from chorus.export.onnx.reader import GraphPaths
from chorus.transcribe.backends.onnx_graphs import told
from chorus.transcribe.backends.sherpa_onnx import opened
from chorus.verify.protocol import Client
from chorus.verify.runtime import RuntimeChild

LOADED = "chorus.transcribe.native.sherpa:LoadedGraphs"
OTHERWISE = (
    "sherpa-onnx hears windows 5 ms later than transformers, suppresses no token, and writes six for a second at most"
)


def clients(paths: GraphPaths) -> tuple[Client, ...]:
    """The runtimes of two graphs and a table."""
    forced = partial(RuntimeChild, LOADED, told(paths), what="onnxruntime's process")
    return (
        Client(
            "onnxruntime", "chorus-merge[evaluate]", lambda: find_spec("onnxruntime") is not None, forced,
            hears_otherwise=OTHERWISE,
        ),
        Client(
            "sherpa-onnx", "sherpa-onnx", lambda: find_spec("sherpa_onnx") is not None, opens=partial(opened, paths),
            hears_otherwise=OTHERWISE,
        ),
    )  # fmt: skip
