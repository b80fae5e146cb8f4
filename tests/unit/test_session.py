"""What computing a plan's tensors shares: threads that keep to themselves, and a GPU that is started once."""

from __future__ import annotations

import threading

import pytest
import torch

from chorus.linalg import lapack
from chorus.merge.arithmetic.session import Session
from chorus.merge.runs.local import Cancelled, spread

SOLVERS = ("eigh", "svd", "qr", "cholesky_ex")


class TouchyBackend:
    """Stands for a GPU's linear algebra: it fails where its first call does not come from the thread that began."""

    def __init__(self) -> None:
        self.began, self.started, self.calls = threading.get_ident(), set(), 0

    def solver(self, name: str):
        genuine = getattr(torch.linalg, name)

        def solve(x, *rest, **keywords):
            self.calls += 1
            if name not in self.started and threading.get_ident() != self.began:
                raise RuntimeError("lazy wrapper should be called at most once")
            self.started.add(name)
            return genuine(x, *rest, **keywords)

        return solve


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> TouchyBackend:
    found = TouchyBackend()
    for name in SOLVERS:
        monkeypatch.setattr(torch.linalg, name, found.solver(name))
    eye = torch.eye
    monkeypatch.setattr(torch, "eye", lambda n, device=None: eye(n))  # there is no such device here
    return found


def test_a_gpus_solvers_are_started_before_the_threads(backend: TouchyBackend):
    session = Session([], device="cuda", threads=4)
    matrices = [torch.eye(3) * i for i in range(1, 9)]
    with session.computing():
        found = spread(matrices, lambda x: float(torch.linalg.eigh(x)[0].max()), threads=session.threads)
    assert found == [float(i) for i in range(1, 9)]
    assert backend.started == set(SOLVERS)


def test_without_that_the_backend_fails(backend: TouchyBackend):
    with pytest.raises(RuntimeError, match="lazy wrapper"):
        spread([torch.eye(3)] * 4, torch.linalg.eigh, threads=2)


@pytest.mark.parametrize(("device", "decomposes"), [("cpu", True), ("cuda", False)])
def test_nothing_is_started_where_nothing_needs_it(device, decomposes, backend: TouchyBackend):
    with Session([], device=device).computing(decomposes=decomposes):
        pass
    assert backend.calls == 0


def test_torchs_threads_are_one_while_it_computes_and_as_before_afterwards():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with Session([]).computing():
            assert torch.get_num_threads() == 1
            assert torch.is_inference_mode_enabled()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_each_thread_has_a_reader_of_its_own():
    session = Session([])
    found = spread(range(6), lambda _: (threading.get_ident(), id(session.reader())), threads=3)
    assert len({reader for _, reader in found}) == len({thread for thread, _ in found})
    assert session.reader() is session.reader()
    assert session.new_reader() is not session.reader()


def test_blocks_are_whole_chunks():
    assert [Session([], block_values=n).block for n in (1, 65_536, 200_000)] == [65_536, 65_536, 196_608]


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_the_order_of_the_jobs_and_the_poll_is_heard(threads):
    polls = []
    assert spread(range(20), lambda n: n * n, threads=threads, poll=lambda: polls.append(1)) == [
        n * n for n in range(20)
    ]
    assert polls


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_failure_is_raised_and_stops_the_others(threads):
    stop = threading.Event()
    done = []

    def work(n: int) -> None:
        if n == 0:
            raise ValueError("the first")
        if stop.wait(0.01 if threads > 1 else 0):
            raise Cancelled
        done.append(n)

    with pytest.raises(ValueError, match="the first"):
        spread(range(500), work, threads=threads, stop=stop)
    assert len(done) < 499
    assert stop.is_set() == (threads > 1)


def test_the_meta_device_has_nothing_to_start():
    lapack.start_solvers("meta")
