"""A function over many items, a few at a time, results in order; the items are never all in flight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
CHUNK = 64  # items for each thread at a time


def in_order(function: Callable[[Item], Result], items: Iterable[Item], jobs: int) -> Iterator[Result]:
    """`map` on `jobs` threads; for work that lets other threads run, such as decoding.

    >>> list(in_order(lambda x: x * x, range(5), jobs=2))
    [0, 1, 4, 9, 16]
    """
    if jobs == 1:  # no thread, so that a traceback leads to the caller
        yield from map(function, items)
        return
    left = iter(items)
    with ThreadPoolExecutor(jobs) as pool:
        while chunk := list(islice(left, CHUNK * jobs)):
            yield from pool.map(function, chunk)
