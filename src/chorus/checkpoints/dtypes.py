"""The number types of checkpoints: one name, its code in safetensors, its size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chorus.errors import nearest
from chorus.lazy import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

# name (torch's) -> (safetensors code, bytes a value)
DTYPES: dict[str, tuple[str, int]] = {
    "float64": ("F64", 8),
    "float32": ("F32", 4),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
    "float8_e4m3fn": ("F8_E4M3", 1),
    "float8_e5m2": ("F8_E5M2", 1),
    "int64": ("I64", 8),
    "int32": ("I32", 4),
    "int16": ("I16", 2),
    "int8": ("I8", 1),
    "uint8": ("U8", 1),
    "bool": ("BOOL", 1),
}
BY_CODE = {code: name for name, (code, _) in DTYPES.items()}
# safetensors has them too, for packed bits and scales: no weight is made of them
QUANTISED = ("U16", "U32", "U64", "F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
FLOATS = ("float64", "float32", "float16", "bfloat16")
OUTPUT_DTYPES = (*FLOATS, "int64")


def itemsize(dtype: str) -> int:
    """Bytes of one value."""
    return DTYPES[dtype][1]


def torch_dtype(dtype: str) -> torch.dtype:
    """The type of this name in torch, which is imported for it."""
    found: torch.dtype = getattr(torch, dtype)
    return found


def parse_dtype(text: str) -> str:
    """A recipe's name of a type, with or without `torch.`; `ValueError` names the nearest.

    >>> parse_dtype("torch.float16")
    'float16'
    """
    name = text.removeprefix("torch.")
    if name not in OUTPUT_DTYPES:
        # named, not taken: a recipe says the same word as the config, the card and the header
        aliases = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32"}
        if name in aliases:
            raise ValueError(f'dtype "{text}" is not known; write "{aliases[name]}"')
        raise ValueError(f'dtype "{text}" is not known{nearest(name, OUTPUT_DTYPES)}')
    return name


def promote(dtypes: list[str]) -> str:
    """The smallest float type that holds all of these, as torch promotes (float16 and bfloat16: float32)."""
    floats = {d for d in dtypes if d in FLOATS}
    if not floats:  # integers are copied, never merged
        return dtypes[0]
    if "float64" in floats:
        return "float64"
    if "float32" in floats or len(floats) > 1:
        return "float32"
    return floats.pop()
