"""Which tensors a subspace method decomposes: matrices, but not what only looks like one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from chorus.architectures.roles import Role

MATRIX, VECTOR = "matrix", "vector"
AS_VECTORS = ("embedding", "position", "convolution", "norm", "bias")


def treatment_of(role: Role, shape: Sequence[int], parameters: Mapping[str, object]) -> str:
    """ "matrix" or "vector", by the parameter `treat`: auto, or one of the two for all tensors that can be either.

    auto takes embeddings, output heads, positions and convolutions for vectors, as the methods' authors do
    (arXiv 2412.00081: everything that is not two-dimensional). As a matrix a convolution is [out, in * kernel].
    """
    # a single row or column is a vector, even where `treat` says matrix
    if len(shape) < 2 or min(matrix_shape(shape)) < 2:
        return VECTOR
    treat = str(parameters.get("treat", "auto"))
    if treat != "auto":
        return treat
    # Whisper's 51,866 x 1,280 embedding would also be the dearest of its matrices
    return VECTOR if role.kind in AS_VECTORS or role.component in ("embeddings", "lm_head") else MATRIX


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """The shape as a matrix: the first dimension by all others."""
    return shape[0], math.prod(shape[1:])
