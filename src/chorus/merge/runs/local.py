"""The local executor: jobs spread over threads of this process, in order of submission; the first failure ends all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from threading import Event
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
POLL_S = 0.2  # seconds between two calls of `poll`


class Cancelled(Exception):  # noqa: N818  not an error: another thread has failed
    """Ends a thread after another one's failure."""


def spread(
    jobs: Sequence[T],
    work: Callable[[T], R],
    *,
    threads: int,
    poll: Callable[[], None] = lambda: None,
    stop: Event | None = None,
) -> list[R]:
    """`work` on every job, by so many threads; results in the jobs' order.

    `poll` is called from the calling thread, a few times a second and at the end. After a failure `stop` is set, so
    that work under way may raise `Cancelled`; the failure is raised once all threads have ended.
    """
    # without a pool Ctrl-C reaches the job itself, and its traceback is the job's
    if threads == 1:
        results = []
        for job in jobs:
            results.append(work(job))
            poll()
        return results
    with ThreadPoolExecutor(threads, thread_name_prefix="merge") as pool:
        futures = [pool.submit(work, job) for job in jobs]
        waiting = set(futures)
        try:
            while waiting:
                ended, waiting = wait(waiting, timeout=POLL_S, return_when=FIRST_EXCEPTION)
                for future in ended:
                    _raise(future)
                poll()
        # an interrupt too: the pool's end would wait for everything that is queued
        except BaseException:
            if stop is not None:
                stop.set()
            for future in waiting:
                future.cancel()
            raise
    return [future.result() for future in futures]


def _raise(future: Future[R]) -> None:
    # who was cancelled only follows the first failure, which is the one to tell
    error = future.exception()
    if error is not None and not isinstance(error, Cancelled):
        raise error
