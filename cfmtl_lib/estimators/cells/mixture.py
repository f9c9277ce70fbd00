r"""Likelihood of the observed cell given the arm, a mixture of strata: its slopes, curvature and shares.

With logits :math:`f_z(x)`, strata probabilities :math:`p = \mathrm{softmax}(f)` and the set S of strata of
the observed cell, a row adds :math:`\ell = -\log \sum_{z \in S} p_z` (paper, Section 3.2). With the posterior
:math:`r_z = p_z 1[z \in S] / \sum_{S} p`, its slope is :math:`p_z - r_z`. Its second derivative is
:math:`p_z (1 - p_z) - r_z (1 - r_z)`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from cfmtl_lib.strata import CELL_MEMBERSHIP, STRATA

LEAST_CURVATURE_SHARE = 0.05
"""Least curvature, as a share of p (1 - p): that of the mixture can be 0 or below."""

LEAST_CURVATURE = 1e-6
"""Least curvature of a logit, where p itself is near 0 or 1."""

LEAST_SHARE = 1e-3
"""Least share of a stratum that boosting starts from: slopes vanish with the share."""

LEAST_PROBABILITY = 1e-12
"""Lower bound of the probability of a cell inside the logarithm."""

MOST_EM_STEPS = 20_000


def strata_of_cells(cell: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return which strata each observed cell holds; shape (n, 5).

    Examples
    --------
    >>> strata_of_cells(np.array([3])).astype(int).tolist()  # treated, collected, converted
    [[0, 0, 0, 1, 1]]
    """
    return CELL_MEMBERSHIP[cell] > 0


def negative_log_likelihood(logits: NDArray, member: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compute minus the log-likelihood of the cell of each row, given its arm; shape (n,), in nats.

    Parameters
    ----------
    logits : ndarray of shape (n, 5)
        Logits of the strata.
    member : ndarray of shape (n, 5), bool
        Result of :func:`strata_of_cells`.
    """
    inside = (softmax(logits, axis=1) * member).sum(axis=1)
    return -np.log(inside.clip(LEAST_PROBABILITY))


def slopes_and_curvatures(
    logits: NDArray, member: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute derivatives of :func:`negative_log_likelihood` by each logit.

    Parameters
    ----------
    logits, member
        See :func:`negative_log_likelihood`.

    Returns
    -------
    slope : ndarray of shape (n, 5), float64
        First derivative, exact.
    curvature : ndarray of shape (n, 5), float64
        Second derivative, at least :data:`LEAST_CURVATURE_SHARE` of p (1 - p).
    """
    p = softmax(logits, axis=1)
    inside = p * member
    r = inside / inside.sum(axis=1, keepdims=True).clip(LEAST_PROBABILITY)
    of_softmax = p * (1 - p)
    curvature = np.maximum(of_softmax - r * (1 - r), LEAST_CURVATURE_SHARE * of_softmax)
    return p - r, np.maximum(curvature, LEAST_CURVATURE)


def shares_of_cells(weight: NDArray) -> NDArray[np.float64]:
    """Find the shares of the strata that make weights of cells likeliest, by EM.

    Where the cell equations (:func:`~cfmtl_lib.strata.strata_from_moments`) have a solution without negative
    shares, it is that one. Else the likeliest shares lie on the border.

    Parameters
    ----------
    weight : ndarray of shape (6,)
        Weight of the rows in each cell, in the order of :data:`~cfmtl_lib.strata.CELLS`.

    Returns
    -------
    ndarray of shape (5,), float64
        Shares that sum to 1.

    Examples
    --------
    >>> shares_of_cells(np.array([20.0, 10, 30, 40, 30, 70])).round(3).tolist()
    [0.2, 0.1, 0.3, 0.2, 0.2]
    """
    shares = np.full(len(STRATA), 1 / len(STRATA))
    total = weight / weight.sum()
    for _ in range(MOST_EM_STEPS):
        inside = CELL_MEMBERSHIP * shares
        after = total @ (inside / inside.sum(axis=1, keepdims=True).clip(LEAST_PROBABILITY))
        moved, shares = np.abs(after - shares).max(), after
        if moved < 1e-12:
            break
    return shares / shares.sum()
