"""Singular triplets of a matrix: the fastest route that meets the accuracy, chosen by shape, rank and device.

    gram        eigenvectors of D^T D (the small side), in float32 where the spectrum allows it, else in float64
    randomized  subspace iteration, where few triplets of a large matrix are asked for; checked, else refused
    svd         LAPACK's or the device's own, for small matrices and where nothing else is accurate enough
    factors     matrices given as a product of thin ones are never formed (see low_rank)

Every route drops singular values below `NULL` of the largest: below that a difference of float32 weights holds
nothing but rounding, and dividing by it would invent directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chorus.lazy import lazy
from chorus.linalg.lapack import gram, symmetric_eigen
from chorus.linalg.low_rank import LowRank, thin_product, triangular
from chorus.linalg.low_rank import svd as low_rank_svd

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor
else:
    np, torch = lazy("numpy"), lazy("torch")

NULL = 1e-5
TINY = 48  # smaller sides up to this are decomposed by SVD in float64: it costs nothing there
FLAT = 8  # float32 is tried where the stable rank |D|^2 / s_1^2 is above n / FLAT
SMALLEST = 0.05  # and accepted where the last kept value is above this share of the first,
BOUNDARY = 3e-5  # and the kept vectors mix with the first dropped ones by no more than this
PROJECTS = 5e-3  # last kept to first value above which float32 vectors do for a projection
FLOAT32 = 2e-7  # relative error of a float32 Gram matrix
ITERATIONS, OVERSAMPLE, RESIDUAL = 6, 16, 1e-5


@dataclass(frozen=True)
class Triplets:
    """D's first k singular triplets: left [m, k], values [k], right [n, k]; `spectrum` [r] are all its values.

    `spectrum` is in float64 and None where the route did not see it. All largest first.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    spectrum: Tensor | None

    @property
    def rank(self) -> int:
        return int(self.values.shape[0])

    def first(self, k: int) -> Triplets:
        """The first k of them."""
        return Triplets(self.left[:, :k], self.values[:k], self.right[:, :k], self.spectrum)


Choice = Callable[["NDArray[np.float64]"], int]  # from all singular values to how many triplets are wanted
Rank = int | Choice | None


def singular_triplets(
    d: Tensor | LowRank, rank: Rank = None, *, whole: bool = True, projection: bool = False
) -> Triplets:
    """The first `rank` (None: all) singular triplets of d [m, n], in float32 (float64 for float64 input).

    `rank` may be a function of all singular values (float64, largest first). Values below `NULL` of the largest
    are dropped, so fewer may come back, and none for a zero matrix. `whole`: all values are wanted as well.
    `projection`: only left * values @ right^T matters, d on the space of its right vectors, whose energy hardly
    depends on their last digits: float32 then suffices for nearly every spectrum.

    >>> import torch
    >>> singular_triplets(torch.diag(torch.tensor([3.0, 1.0, 2.0])), 2).values.tolist()
    [3.0, 2.0]
    """
    if isinstance(d, LowRank):
        left, spectrum, right = low_rank_svd(d, None if callable(rank) else rank)
        k = rank(spectrum.cpu().numpy()) if callable(rank) else left.shape[1]
        return _cut(left[:, :k], spectrum, right[:, :k], d.left.dtype)
    m, n = d.shape
    if not n or not m:
        return Triplets(d[:, :0], d.new_zeros(0), d.T[:, :0], d.new_zeros(0, dtype=torch.float64))
    if m < n:  # the routes below want the smaller side second
        turned = singular_triplets(d.T, rank, whole=whole, projection=projection)
        return Triplets(turned.right, turned.values, turned.left, turned.spectrum)
    k = n if rank is None or callable(rank) else min(rank, n)
    route = choose_route(m, n, k, whole=whole, device=d.device.type)
    if route == "randomized":
        found = randomized(d, k)
        if found is not None:
            return found
        route = "gram"
    if route == "svd":
        left, spectrum, vh = torch.linalg.svd(d.double(), full_matrices=False)
        k = rank(spectrum.cpu().numpy()) if callable(rank) else k
        return _cut(left[:, :k], spectrum, vh[:k].mT, d.dtype)
    return by_gram(d, rank if callable(rank) else k, projection=projection)


def choose_route(m: int, n: int, k: int, *, whole: bool, device: str) -> str:
    """The cheapest route for k triplets of [m, n], m >= n, by operations: squares and two thirds of n^3, or passes.

    >>> choose_route(8192, 8192, 8, whole=False, device="cpu"), choose_route(768, 768, 76, whole=True, device="cpu")
    ('randomized', 'gram')
    """
    if n <= TINY or device == "meta":
        return "svd"
    passes = 12.0 * m * n * (k + OVERSAMPLE) * (ITERATIONS + 1)  # thin products and their QR: a third of the speed
    squares = m * n * n + 3.0 * n**3  # a tridiagonal reduction runs at half the speed of a product
    return "randomized" if not whole and passes < squares else "gram"


def _cut(left: Tensor, spectrum: Tensor, right: Tensor, dtype: torch.dtype) -> Triplets:
    """Drop null values, cast."""
    k = left.shape[1]
    if spectrum.device.type != "meta":
        # what is null to rounding has no direction of its own
        k = min(k, int((spectrum > NULL * spectrum[0]).sum())) if spectrum.numel() else 0
    return Triplets(left[:, :k].to(dtype), spectrum[:k].to(dtype), right[:, :k].to(dtype), spectrum)


def by_gram(d: Tensor, k: int | Choice, *, projection: bool = False) -> Triplets:
    """Triplets of d [m, n], m >= n, from D^T D: right = eigenvectors, left = D right / values."""
    right, values, spectrum = _by_gram(d, k, projection=projection)
    return complete(d, right, values, spectrum)


def smaller_side(d: Tensor, rank: int, *, whole: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    """The vectors of the smaller side [min(m, n), k], the values and the spectrum: what `complete` needs besides d."""
    wide = d if d.shape[0] >= d.shape[1] else d.T
    k = min(rank, wide.shape[1])
    if choose_route(wide.shape[0], wide.shape[1], k, whole=whole, device=d.device.type) == "gram":
        return _by_gram(wide, k)
    found = singular_triplets(wide, k, whole=whole)
    return found.right, found.values, found.spectrum


def _by_gram(d: Tensor, k: int | Choice, *, projection: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    if d.dtype == torch.float32 and not callable(k) and (projection or _looks_flat(d)):
        found = _gram_triplets(d, k, torch.float32, float32_projects if projection else float32_suffices)
        if found is not None:
            return found
    found = _gram_triplets(d, k, torch.float64)
    assert found is not None
    return found


def _looks_flat(d: Tensor) -> bool:
    """A first look, by three power iterations, at whether a float32 Gram matrix is worth trying."""
    x = d.T @ d.sum(dim=1)
    for _ in range(3):
        x = d.T @ (d @ (x / x.norm().clamp(min=1e-30)))
    return float(d.norm() ** 2) > d.shape[1] / FLAT * float(x.norm())


def _gram_triplets(
    d: Tensor,
    wanted: int | Choice,
    precision: torch.dtype,
    suffices: Callable[[Tensor, int], bool] | None = None,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Right vectors, values, spectrum; None where the precision does not suffice for this spectrum."""
    squares, right = _eigen(d, wanted, precision)
    k = right.shape[1]
    spectrum = squares.double().clamp(min=0).sqrt()
    if suffices is not None and not suffices(spectrum, k):
        return None
    k = int((spectrum[:k] > NULL * spectrum[0]).sum())
    return right[:, :k].to(d.dtype), spectrum[:k].to(d.dtype), spectrum


def complete(d: Tensor, vectors: Tensor, values: Tensor, spectrum: Tensor | None) -> Triplets:
    """Triplets from the vectors of the smaller side [min(m, n), k] and the values: the others are D v / s."""
    if d.shape[0] < d.shape[1]:
        return Triplets(vectors, values, thin_product(d.T, vectors) / values, spectrum)
    return Triplets(thin_product(d, vectors) / values, values, vectors, spectrum)


def _eigen(x: Tensor, wanted: int | Choice, precision: torch.dtype) -> tuple[Tensor, Tensor]:
    """Eigenvalues of x^T x, largest first, and the vectors of the first that are wanted, by singular values."""
    if x.device.type == "cpu":
        top = (lambda squares: wanted(squares.clip(0) ** 0.5)) if callable(wanted) else wanted
        laid = x if x.is_contiguous() or x.T.is_contiguous() else x.contiguous()
        products = gram(laid.numpy(), np.float64 if precision == torch.float64 else None)
        values, vectors = symmetric_eigen(products, top)
        return torch.from_numpy(values.copy()), torch.from_numpy(vectors.copy())
    wide = x.to(precision)
    values, vectors = torch.linalg.eigh(wide.T @ wide)
    values = values.flip(0)
    k = wanted(values.clamp(min=0).sqrt().cpu().numpy()) if callable(wanted) else wanted
    return values, vectors.flip(1)[:, :k]


def float32_suffices(spectrum: Tensor, k: int) -> bool:
    """Whether a float32 Gram matrix resolves the first k of these values, and the gap behind them."""
    first = float(spectrum[0])
    if not first > 0 or float(spectrum[k - 1]) < SMALLEST * first:
        return False
    if k == spectrum.numel():
        return True
    gap = float(spectrum[k - 1] ** 2 - spectrum[k] ** 2)
    return bool(FLOAT32 * first**2 < BOUNDARY * k**0.5 * gap)


def float32_projects(spectrum: Tensor, k: int) -> bool:
    """Whether the first k vectors of a float32 Gram matrix span a space that holds as much energy as the best one."""
    return k > 0 and float(spectrum[k - 1]) > PROJECTS * float(spectrum[0])


def randomized(d: Tensor, k: int) -> Triplets | None:
    """The first k triplets by subspace iteration (Halko, Martinsson and Tropp 2011); None where it has not converged.

    The start is drawn from a fixed seed. Accepted are triplets with |D^T u - s v| below 1e-5 of the largest value.
    """
    n = d.shape[1]
    numbers = torch.Generator().manual_seed(0)
    basis = torch.randn(n, min(n, k + OVERSAMPLE), generator=numbers).to(d)
    for _ in range(ITERATIONS):
        basis, _r = torch.linalg.qr(d.T @ torch.linalg.qr(d @ basis)[0])
    left, s, vh = torch.linalg.svd(d @ basis, full_matrices=False)
    left, s, right = left[:, :k], s[:k], basis @ vh[:k].mT
    residual = (d.T @ left - right * s).norm(dim=0).max()
    if not bool(residual <= RESIDUAL * s[0]):
        return None
    keep = int((s > NULL * s[0]).sum())
    return Triplets(left[:, :keep], s[:keep], right[:, :keep], None)


def left_basis(deltas: Sequence[Tensor | LowRank], *, transposed: bool = False) -> Tensor:
    """The left singular vectors [m, r] of [D_1 .. D_N], from sum_i D_i D_i^T or from the factors.

    r is the rank of the concatenation, at most m. `transposed`: of [D_1^T .. D_N^T], [n, r].
    """
    thin, total = [], None
    dtype = torch.float32
    for d in deltas:
        if isinstance(d, LowRank):
            left, right = (d.right.double().T, d.left.double().T) if transposed else (d.left.double(), d.right.double())
            factor, _ = triangular(right.T)  # D D^T = L (C C^T) L^T
            thin.append(left @ factor)
            dtype = d.left.dtype
        else:
            wide = d.T.double() if transposed else d.double()
            total = wide @ wide.T if total is None else total.addmm_(wide, wide.T)
            dtype = d.dtype
    if total is None:
        return singular_triplets(torch.cat(thin, dim=1)).left.to(dtype)
    for x in thin:
        total.addmm_(x, x.T)
    values, vectors = symmetric_pairs(total)
    keep = int((values > NULL**2 * values[0]).sum()) if float(values[0]) > 0 else 0
    return vectors[:, :keep].to(dtype)


def symmetric_pairs(g: Tensor) -> tuple[Tensor, Tensor]:
    """All eigenvalues of a symmetric matrix, largest first, with their vectors."""
    if g.device.type == "cpu":
        values, vectors = symmetric_eigen(g.contiguous().numpy())
        return torch.from_numpy(values.copy()), torch.from_numpy(vectors.copy())
    values, vectors = torch.linalg.eigh(g)
    return values.flip(0), vectors.flip(1)
