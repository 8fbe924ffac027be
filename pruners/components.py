"""Connected components, of couplings given as pairs of numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Indices = NDArray[np.int64]


def components(left: Indices, right: Indices, count: int) -> Indices:
    """The component of each of the numbers 0 to `count - 1`, counted from 0.

    Args:
        left, right: shape (pairs,); `left[i]` and `right[i]` are in one component.

    Returns:
        Shape (count,).
    """
    # SciPy 1.11 takes 32-bit indices only, and does not narrow those that it is given.
    narrow = np.int32 if count <= np.iinfo(np.int32).max else np.int64
    pairs = (left.astype(narrow), right.astype(narrow))
    edges = coo_array((np.ones(len(left), dtype=np.int8), pairs), (count, count))
    labels: Indices = connected_components(edges, directed=False)[1].astype(np.int64)
    return labels
