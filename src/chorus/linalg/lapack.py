"""Eigenvalues of symmetric matrices on the CPU: all of them, with the vectors of the largest only.

A full decomposition spends most of its time on vectors that nobody asks for. Reduction to tridiagonal form, all
eigenvalues of that, inverse iteration for the wanted ones and the way back cost about half of it; where inverse
iteration is not safe (the matrix falls into blocks, or it does not converge) everything is decomposed.

The routines are those that scipy brings (its `cython_blas` and `cython_lapack`), called through ctypes: unlike
scipy's own wrappers that releases the interpreter's lock, so that several tensors are decomposed at once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from importlib import import_module
from threading import Lock
from typing import TYPE_CHECKING, Any

from chorus.lazy import lazy

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import DTypeLike, NDArray

    Matrix = NDArray[Any]
else:
    np, torch = lazy("numpy"), lazy("torch")

Top = Callable[["Matrix"], int]  # from all eigenvalues, largest first, to how many vectors are wanted
FEW = 0.4  # share of the vectors up to which the partial decomposition is the faster one
WIDENED = 1 << 18  # values that are widened at a time
SMALL = 64  # below this size it never is


@cache
def _routine(name: str) -> Callable[..., None]:
    """A Fortran routine of scipy's BLAS or LAPACK as a C function of pointers."""
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    library = "cython_blas" if name[1:] == "syrk" else "cython_lapack"
    capsule = import_module(f"scipy.linalg.{library}").__pyx_capi__[name]
    signature = api.PyCapsule_GetName(capsule)
    count = signature.count(b",") + 1
    made: Callable[..., None] = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * count)(
        api.PyCapsule_GetPointer(capsule, signature)
    )
    return made


def _call(name: str, dtype: DTypeLike, *arguments: bytes | int | float | Matrix) -> int:
    """Call a routine in the precision of `dtype`; returns its `info`, which is the last argument of LAPACK's.

    bytes are characters, int and float scalars, arrays Fortran's own memory.
    """
    double = dtype == np.float64
    scalar: type[ctypes.c_double | ctypes.c_float] = ctypes.c_double if double else ctypes.c_float
    given: list[object] = []
    info = ctypes.c_int(0)
    for x in arguments:
        if isinstance(x, bytes):
            given.append(x)
        elif isinstance(x, int):
            given.append(ctypes.byref(ctypes.c_int(x)))
        elif isinstance(x, float):
            given.append(ctypes.byref(scalar(x)))
        else:
            given.append(x.ctypes.data)
    if name != "syrk":
        given.append(ctypes.byref(info))
    _routine(("d" if double else "s") + name)(*given)
    return info.value


def gram(x: Matrix, dtype: DTypeLike | None = None) -> Matrix:
    """x^T x [n, n] of x [m, n]; only the lower triangle of the result holds it.

    In its own precision, or in float64 for float32 input where `dtype` says so: then some rows are widened at a
    time, in one small buffer. x may lie in memory by rows or by columns.

    >>> import numpy
    >>> numpy.tril(gram(numpy.eye(2) * 3)).tolist()
    [[9.0, 0.0], [0.0, 9.0]]
    """
    by_rows = bool(x.flags.c_contiguous)
    if not by_rows and not x.flags.f_contiguous:
        x, by_rows = np.ascontiguousarray(x), True
    m, n = x.shape
    dtype = np.dtype(x.dtype if dtype is None else dtype)
    total = np.zeros((n, n), dtype, order="F")
    if not m or not n:
        return total
    if x.dtype == dtype:
        _add_products(x, by_rows, total)
        return total
    step = max(1, min(m, WIDENED // n))
    buffer = np.empty((step, n), dtype, order="C" if by_rows else "F")
    for start in range(0, m, step):
        rows = x[start : start + step]
        piece = buffer[: len(rows)]
        np.copyto(piece, rows)
        _add_products(piece, by_rows, total)
    return total


def _add_products(x: Matrix, by_rows: bool, total: Matrix) -> None:
    """total += x^T x, in the lower triangle; x [m, n] by rows, or by columns perhaps apart."""
    m, n = x.shape
    apart = n if by_rows else x.strides[1] // x.itemsize
    trans = b"N" if by_rows else b"T"
    _call("syrk", x.dtype, b"L", trans, n, m, 1.0, x, apart, 1.0, total, n)


def symmetric_eigen(g: Matrix, top: int | Top | None = None) -> tuple[Matrix, Matrix]:
    """All eigenvalues [n], largest first, and the vectors [n, top] of the largest, from g's lower triangle.

    In g's own precision, float32 or float64. `top` None: all vectors; a function chooses it by the values.
    """
    n = g.shape[0]
    if n > SMALL and (callable(top) or (top is not None and top <= FEW * n)):
        found = _largest(g, top)
        if found is not None:
            return found
    values, vectors = _all(g)
    values = values[::-1]
    k = n if top is None else min(n, top(values) if callable(top) else top)
    return values, vectors[:, n - k :][:, ::-1]


def _all(g: Matrix) -> tuple[Matrix, Matrix]:
    """Every value, smallest first, with its vector, by divide and conquer."""
    n, dtype = g.shape[0], g.dtype
    vectors, values = np.array(g, order="F"), np.empty(n, dtype)
    if not n:
        return values, vectors
    work, whole = np.empty(1 + 6 * n + 2 * n * n, dtype), np.empty(3 + 5 * n, np.int32)
    if _call("syevd", dtype, b"V", b"L", n, vectors, n, values, work, work.size, whole, whole.size):
        exact, turned = np.linalg.eigh(np.tril(g) + np.tril(g, -1).T)
        return exact.astype(dtype), turned.astype(dtype)
    return values, vectors


def _largest(g: Matrix, wanted: int | Top) -> tuple[Matrix, Matrix] | None:
    n, dtype = g.shape[0], g.dtype
    reflectors, tau = np.array(g, order="F"), np.empty(n - 1, dtype)
    diagonal, off, work = np.empty(n, dtype), np.empty(n - 1, dtype), np.empty(64 * n, dtype)
    if _call("sytrd", dtype, b"L", n, reflectors, n, diagonal, off, tau, work, work.size):
        return None
    size = float(np.abs(diagonal).max()) + float(np.abs(off).max())
    if np.abs(off).min() <= np.finfo(dtype).eps * size:  # it falls into blocks
        return None
    values, spent = diagonal.copy(), off.copy()
    if _call("sterf", dtype, n, values, spent):
        return None
    top = wanted(values[::-1]) if callable(wanted) else wanted
    if top > FEW * n:
        return None
    vectors = np.empty((n, top), dtype, order="F")
    if top == 0:
        return values[::-1], vectors
    block, split = np.ones(top, np.int32), np.full(1, n, np.int32)
    chosen, whole, failures = values[n - top :].copy(), np.empty(n, np.int32), np.empty(top, np.int32)
    work = np.empty(max(5 * n, 64 * top), dtype)
    if _call("stein", dtype, n, diagonal, off, top, chosen, block, split, vectors, n, work, whole, failures):
        return None
    if _call("ormtr", dtype, b"L", b"L", b"N", n, top, reflectors, n, tau, vectors, n, work, work.size):
        return None
    return values[::-1], vectors[:, ::-1]


class _Limit:
    """BLAS on one thread for as long as anyone asks for it: the limit is the process's, and threads ask for it."""

    def __init__(self) -> None:
        self._lock, self._asking = Lock(), 0
        self._limits: ExitStack | None = None

    def __enter__(self) -> None:
        from threadpoolctl import threadpool_limits

        with self._lock:
            self._asking += 1
            if self._limits is None:
                import_module("scipy.linalg.cython_lapack")  # loads the library, so that the limit reaches it
                self._limits = ExitStack()
                # of all that are loaded: numpy, scipy and torch bring their own
                self._limits.enter_context(threadpool_limits(1, user_api="blas"))

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._asking -= 1
            if not self._asking and self._limits is not None:
                self._limits.close()
                self._limits = None


_LIMIT = _Limit()


def one_blas_thread() -> AbstractContextManager[None]:
    """scipy's BLAS on one thread: the engine works on several tensors at once, and sums must not depend on it."""
    return _LIMIT


def start_solvers(device: str) -> None:
    """Have torch load a GPU's linear algebra, once, by the thread that calls.

    torch loads it at the first call that needs it, and two threads that come first together end in an error ("lazy
    wrapper should be called at most once", torch 2.11 on CUDA).
    """
    if device.split(":")[0] in ("cpu", "meta"):
        return
    one = torch.eye(2, device=device)
    for solve in (torch.linalg.eigh, torch.linalg.svd, torch.linalg.qr, torch.linalg.cholesky_ex):
        solve(one)
    torch.linalg.solve_triangular(one, one, upper=True)
