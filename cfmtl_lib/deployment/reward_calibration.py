r"""Recalibration of predicted rewards, and their combination, on doubly robust scores of the reward.

Predicted rewards order rows, but their sign can be wrong for all. A learner that overrates its effects treats
rows that cost more than they earn. The doubly robust score r of a row has the reward of treating it as its
mean given x. So regressing r on predictions of rows that the learner has not seen tells how far to trust
them. The calibrated reward is

.. math::
    g(x) = \bar r + \lambda \sum_j w_j\,(f_j(x) - \bar f_j), \qquad w_j \ge 0, \quad
    \lambda = \max\left(0,\, 1 - \frac{\widehat{se}(b)^2}{b^2}\right),

with f the predictions, w from non-negative least squares (Breiman, 1996, "Stacked regressions"), and b the
slope of r on the combination. The factor :math:`\lambda` shrinks slopes that are small beside their error
(James and Stein, 1961). Predictions that say nothing become the mean reward of treating anybody.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from cfmtl_lib.runtime.registry import storable


@storable
@dataclass(frozen=True, eq=False)
class RewardCalibration:
    """Calibrated reward as a linear function of one or several predicted rewards.

    Attributes
    ----------
    mean : float
        Mean reward of treating anybody, in conversions a unit.
    weights, centre : ndarray of shape (m,), float64
        Slope of each prediction, at least 0, and its mean.

    Examples
    --------
    >>> RewardCalibration(-0.5, np.array([0.5]), np.array([2.0])).predict(np.array([[4.0], [2.0]])).tolist()
    [0.5, -0.5]
    """

    mean: float
    weights: NDArray[np.float64]
    centre: NDArray[np.float64]

    def predict(self, predicted: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the calibrated reward, shape (n,), of predictions of shape (n, m)."""
        return self.mean + (predicted - self.centre) @ self.weights


def calibrate_rewards(
    predicted: NDArray[np.float64],
    scores: NDArray[np.float64],
    *,
    member: NDArray[np.int64] | None = None,
) -> RewardCalibration:
    """Fit a calibration to predictions of rows that the models have not seen.

    Parameters
    ----------
    predicted : ndarray of shape (n, m), float64
        Predicted rewards of m models.
    scores : ndarray of shape (n,), float64
        Doubly robust scores of the reward.
    member : ndarray of shape (n,), int64, optional
        Number of each row's cluster. Rows of one cluster vary together.

    Returns
    -------
    RewardCalibration

    Examples
    --------
    >>> f = np.arange(6.0)[:, None]
    >>> fitted = calibrate_rewards(f, 2 * f[:, 0] - 3)
    >>> fitted.predict(f).round(9).tolist()
    [-3.0, -1.0, 1.0, 3.0, 5.0, 7.0]
    """
    centre, mean = predicted.mean(axis=0), float(scores.mean())
    spread = predicted.std(axis=0)
    # What hardly varies beside its size is rounding, and has no slope.
    moving = spread > 1e-9 * np.maximum(1e-300, np.abs(predicted).max(axis=0, initial=0.0))
    weights = np.zeros(predicted.shape[1])
    if moving.any() and len(scores) > 2:
        scaled = (predicted[:, moving] - centre[moving]) / spread[moving]
        found, _ = nnls(scaled, scores - mean)
        weights[moving] = found / spread[moving] * _shrinkage(scaled @ found, scores - mean, member)
    return RewardCalibration(mean, weights, centre)


def _shrinkage(
    combined: NDArray[np.float64], scores: NDArray[np.float64], member: NDArray[np.int64] | None
) -> float:
    """Return the positive part of 1 - se(b)^2 / b^2, for the slope b of centred scores."""
    squares = float(np.square(combined).sum())
    if squares <= 0:
        return 0.0
    slope = float(combined @ scores) / squares
    if slope <= 0:
        return 0.0
    pulls = combined * (scores - slope * combined)
    sums = pulls if member is None else np.bincount(member, weights=pulls)
    return max(0.0, 1.0 - float(np.square(sums).sum()) / (squares * slope) ** 2)
