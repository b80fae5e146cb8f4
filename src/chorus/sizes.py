"""Numbers of bytes as people write them."""

from __future__ import annotations

import re


def parse_size(text: str) -> int:
    """Bytes of `500MB`, `5GB`, `1GiB`, or mergekit's `5B` (billions), `500M`; `ValueError` otherwise.

    >>> parse_size("5B"), parse_size("1GiB"), parse_size("20MB")
    (5000000000, 1073741824, 20000000)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGTB]?)(I?B)?\s*", text.upper())
    if not match:
        raise ValueError(f'"{text}" is not a size; write 500MB, 5GB or 1GiB')
    number, unit, suffix = float(match[1]), match[2], match[3] or ""
    if unit == "B" and not suffix:  # mergekit's billions
        return round(number * 1e9)
    step = 1024 if suffix == "IB" else 1000  # the letter of the standard; mergekit's 5GB is decimal too
    return round(number * step ** ["", "K", "M", "G", "T"].index(unit)) if unit != "B" else round(number)


def size(n_bytes: float) -> str:
    """A number of bytes as people say it, in powers of ten.

    >>> size(4_940_000_000)
    '4.94 GB'
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.3g} {unit}"
    return f"{n_bytes:.0f} bytes"
