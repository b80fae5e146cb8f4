"""Documents as JSON and YAML give them: maps whose values nothing has checked yet; and numbers as people write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

JsonObject = dict[str, Any]
JsonMap = Mapping[str, Any]  # the same, not to be written to


def exact(number: float) -> str:
    """A number as people write it, where that is this number and no other; else with all its digits.

    >>> exact(0.5), exact(3.0), exact(0.30000001)
    ('0.5', '3', '0.30000001')
    """
    short = f"{number:g}"
    return short if float(short) == number else repr(float(number))
