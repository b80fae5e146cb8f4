"""Kinds of weights that are no numbers to be averaged: quantised ones, and integers in their place."""

from __future__ import annotations

from chorus.checkpoints.dtypes import FLOATS
from chorus.errors import CheckpointError
from chorus.plain import JsonObject

UNQUANTISED = "merge the unquantised model; or load it with transformers, call dequantize(), and save that"


def refuse_quantised(config: JsonObject, label: str) -> None:
    """Quantised weights are not numbers that could be averaged."""
    quantisation = config.get("quantization_config")
    if quantisation:
        kind = quantisation.get("quant_method", "unknown") if isinstance(quantisation, dict) else "unknown"
        raise CheckpointError(f"{label}: the weights are quantised ({kind})", UNQUANTISED)
    packed = config.get("quantization")  # MLX's key, which stands beside weights of its own form alone
    if isinstance(packed, dict) and "bits" in packed:
        raise CheckpointError(
            f"{label}: the weights are quantised (MLX)", "merge the unquantised model, in transformers' format"
        )


def refuse_other_kinds(name: str, dtype: str, shape: tuple[int, ...], label: str) -> None:
    """The tensor names of bitsandbytes, GPTQ, AWQ and fp8 give a quantised file away even without its config.

    Integers where every layer has floating-point numbers are what is left of one, or of a damaged file. Counters,
    positions and masks are integers too; none of them is called a weight.
    """
    suffixes = (".SCB", ".absmax", ".quant_map", ".qweight", ".qzeros", ".weight_scale", ".weight_scale_inv")
    if name.endswith(suffixes) or ".quant_state." in name or dtype.startswith("float8"):
        raise CheckpointError(
            f"{label}: tensor {name} ({dtype}) belongs to a quantised model",
            UNQUANTISED,
        )
    # GPT-2's masks are called attn.bias, but have four dimensions
    if dtype not in FLOATS and (name.endswith(".weight") or (name.endswith(".bias") and len(shape) == 1)):
        raise CheckpointError(
            f"{label}: tensor {name} holds {dtype}, a weight is made of floating-point numbers",
            "save the model again, in float32, bfloat16 or float16",
        )
