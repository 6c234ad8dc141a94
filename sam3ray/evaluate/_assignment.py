"""The best one-to-one assignment."""

from __future__ import annotations

import numpy as np


def best_pairs(worth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the min(rows, columns) pairs with the largest sum of values."""
    from scipy.optimize import linear_sum_assignment  # takes half a second, which a driver need not spend

    rows, columns = linear_sum_assignment(-worth)
    return rows, columns
