"""Eigenvalues of symmetric matrices on the CPU: all of them, with the vectors of the largest only.

A full decomposition spends most of its time on vectors that nobody asks for. Reduction to tridiagonal form, all
eigenvalues of that, inverse iteration for the wanted ones and the way back cost about half of it; where inverse
iteration is not safe (the matrix falls into blocks, or it does not converge) everything is decomposed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from chorus.lazy import lazy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[Any]
else:
    np = lazy("numpy")

linalg = lazy("scipy.linalg")
blas, lapack = lazy("scipy.linalg.blas"), lazy("scipy.linalg.lapack")

Top = Callable[[Any], int]  # from all eigenvalues, largest first, to how many vectors are wanted
FEW = 0.4  # share of the vectors up to which the partial decomposition is the faster one
WIDENED = 1 << 18  # values that are widened at a time
SMALL = 64  # below this size it never is


def gram(x: Matrix, dtype: Any = None) -> Matrix:
    """x^T x [n, n] of x [m, n]; only the lower triangle of the result holds it.

    In its own precision, or in float64 for float32 input where `dtype` says so: then some rows are widened at a
    time, in one small buffer. x may lie in memory by rows or by columns.

    >>> import numpy
    >>> numpy.tril(gram(numpy.eye(2) * 3)).tolist()
    [[9.0, 0.0], [0.0, 9.0]]
    """
    by_rows = bool(x.flags.c_contiguous)
    if dtype is None or x.dtype == dtype:
        syrk = blas.dsyrk if x.dtype == np.float64 else blas.ssyrk
        found: Matrix = syrk(1.0, x.T if by_rows else x, trans=int(not by_rows), lower=1)
        return found
    m, n = x.shape
    step = max(1, min(m, WIDENED // max(1, n)))
    buffer = np.empty((step, n) if by_rows else (n, step), dtype)
    total = np.zeros((n, n), dtype, order="F")
    for start in range(0, m, step):
        rows = x[start : start + step]
        piece = buffer[: len(rows)] if by_rows else buffer[:, : len(rows)].T
        np.copyto(piece, rows)
        turned = piece.T if by_rows else np.asfortranarray(piece)
        total = blas.dsyrk(1.0, turned, beta=1.0, c=total, trans=int(not by_rows), lower=1, overwrite_c=1)
    return total


def symmetric_eigen(g: Matrix, top: int | Top | None = None) -> tuple[Matrix, Matrix]:
    """All eigenvalues [n], largest first, and the vectors [n, top] of the largest, from g's lower triangle.

    In g's own precision, float32 or float64. `top` None: all vectors; a function chooses it by the values.
    """
    n = g.shape[0]
    if n > SMALL and (callable(top) or (top is not None and top <= FEW * n)):
        found = _largest(g, top)
        if found is not None:
            return found
    values, vectors = linalg.eigh(g, driver="evd", check_finite=False)
    values = values[::-1]
    k = n if top is None else min(n, top(values) if callable(top) else top)
    return values, vectors[:, n - k :][:, ::-1]


def _largest(g: Matrix, wanted: int | Top) -> tuple[Matrix, Matrix] | None:
    n = g.shape[0]
    sytrd, sterf, stein, ormqr = lapack.get_lapack_funcs(("sytrd", "sterf", "stein", "ormqr"), dtype=g.dtype)
    reflectors, diagonal, off, tau, failed = sytrd(g, lower=1, lwork=64 * n)
    size = float(np.abs(diagonal).max()) + float(np.abs(off).max())
    if failed or np.abs(off).min() <= np.finfo(g.dtype).eps * size:  # it falls into blocks
        return None
    values, failed = sterf(diagonal.copy(), off.copy())
    if failed:
        return None
    top = wanted(values[::-1]) if callable(wanted) else wanted
    if top > FEW * n:
        return None
    block, split = np.zeros(n, np.int32), np.zeros(n, np.int32)
    block[:top], split[0] = 1, n
    if top == 0:
        return values[::-1], np.zeros((n, 0), g.dtype)
    vectors, failed = stein(diagonal, off, np.ascontiguousarray(values[n - top :]), block, split)
    if failed:
        return None
    vectors = np.asfortranarray(vectors[:, :top])
    turned, _, failed = ormqr("L", "N", np.asfortranarray(reflectors[1:, : n - 1]), tau, vectors[1:], lwork=64 * n)
    if failed:
        return None
    vectors[1:] = turned
    return values[::-1], vectors[:, ::-1]


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """scipy's BLAS on one thread: the engine works on several tensors at once, and sums must not depend on it."""
    from threadpoolctl import threadpool_limits

    _ = lapack.get_lapack_funcs  # loads the library, so that the limit reaches it
    with threadpool_limits(1, user_api="blas"):
        yield
