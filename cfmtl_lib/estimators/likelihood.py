"""Likelihood of what a log shows, by which models can be compared without true strata."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.outcomes import checked_binary
from cfmtl_lib.logs.row_arguments import same_rows, table_of_numbers
from cfmtl_lib.strata import CELL_MEMBERSHIP, N_TREATED_CELLS, STRATA

LEAST_PROBABILITY = 1e-4
"""Lower bound of the probability of an observed cell, as plug-in estimates can leave [0, 1]. One unlikely row
should not decide between models."""


def cell_probabilities(strata_probability: ArrayLike, treated: ArrayLike) -> NDArray[np.float64]:
    """Compute P(cell | T, x) of the six cells; 0 for those of the other arm.

    Parameters
    ----------
    strata_probability : array_like of shape (n, 5)
    treated : array_like of shape (n,), 0/1

    Returns
    -------
    ndarray of shape (n, 6), float64
        Probabilities in the order of :data:`~cfmtl_lib.strata.CELLS`.

    Examples
    --------
    >>> cell_probabilities([[0.1, 0.2, 0.3, 0.3, 0.1]], [1]).round(2).tolist()
    [[0.1, 0.2, 0.3, 0.4, 0.0, 0.0]]
    """
    p = table_of_numbers("strata_probability", strata_probability, STRATA)
    arm = checked_binary("treated", same_rows("treated", treated, strata_probability), len(p))
    cells = p @ CELL_MEMBERSHIP.T
    cells[:, :N_TREATED_CELLS] *= arm[:, None] == 1
    cells[:, N_TREATED_CELLS:] *= arm[:, None] == 0
    return cells


def observed_cell_probability(strata_probability: ArrayLike, log: IncentiveLog) -> NDArray[np.float64]:
    """Return P(cell of the row | T, x), shape (n,); it can leave [0, 1] as strata probabilities do."""
    return cell_probabilities(strata_probability, log.t)[np.arange(len(log)), log.cell]


def cell_log_likelihood(strata_probability: ArrayLike, log: IncentiveLog) -> NDArray[np.float64]:
    """Compute the log-likelihood of the cell of each row, given its treatment; shape (n,), in nats.

    The propensity does not enter. So the mean over held-out rows compares models of strata, whatever their
    model of the assignment. Probabilities below :data:`LEAST_PROBABILITY` are raised to it.

    Examples
    --------
    >>> log = IncentiveLog(x=[[0.0], [0.0]], t=[1, 0], c=[1, 0], y=[1, 0])
    >>> cell_log_likelihood([[0.2] * 5, [0.2] * 5], log).round(3).tolist()  # logs of 0.4 and of 0.6
    [-0.916, -0.511]
    """
    return np.log(observed_cell_probability(strata_probability, log).clip(LEAST_PROBABILITY, 1.0))


def outcome_log_likelihood(
    log: IncentiveLog, converted_treated: ArrayLike, converted_untreated: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Compute the log-likelihood of each row's conversion under its arm's mean; shape (n,), in nats.

    Without a mean of the untreated, their rows get 0.
    """
    treated = log.t == 1
    untreated_mean = converted_treated if converted_untreated is None else converted_untreated
    mean = np.where(treated, np.asarray(converted_treated), np.asarray(untreated_mean))
    observed = np.where(log.y == 1, mean, 1 - mean).clip(LEAST_PROBABILITY, 1.0)
    return np.log(observed) * (treated if converted_untreated is None else 1.0)
