"""Who belongs to whom, one to one."""

from __future__ import annotations

import numpy as np


def best_pairs(worth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pairs whose values have the largest sum: min(rows, columns) pairs."""
    from scipy.optimize import linear_sum_assignment  # takes half a second, and a driver evaluates nothing

    rows, columns = linear_sum_assignment(-worth)
    return rows, columns
