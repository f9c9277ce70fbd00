"""Many simulated logs one below the other, with nuisances by frequencies: fast replications."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cfmtl_lib.datasets.simulation_features import (
    POINTS,
    propensities,
    strata_probabilities,
)
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.nuisances.moments import MOMENTS, LogNuisances
from cfmtl_lib.strata import draw_strata, observe

NUISANCES = {
    "both right": ("fitted", "known"),
    "outcome wrong": ("constant", "known"),
    "propensity wrong": ("fitted", "constant"),
    "both wrong": ("constant", "constant"),
    "both fitted": ("fitted", "fitted"),
}
"""Sources of (outcome means, propensity): frequencies by x ("fitted") or over all x ("constant")."""


N_FOLDS = 5


def stacked_log(n: int, rng: np.random.Generator) -> IncentiveLog:
    """Draw many logs, one below the other, with the number of the point as the one feature."""
    point = rng.integers(0, len(POINTS), n)
    stratum = draw_strata(strata_probabilities()[point], rng)
    treated = (rng.random(n) < propensities()[point]).astype(np.int8)
    collected, converted = observe(stratum, treated)
    return IncentiveLog(point[:, None].astype(float), treated, collected, converted)


def frequency_nuisances(
    log: IncentiveLog, replication: NDArray[np.int64], fold: NDArray[np.int64], outcome: str, propensity: str
) -> LogNuisances:
    """Estimate nuisances by frequencies in the other folds of the same replication.

    Frequencies are taken by x ("fitted") or over all x ("constant").
    """
    point = log.x[:, 0].astype(np.int64)

    def frequency(target: NDArray, rows: NDArray[np.bool_], how: str) -> NDArray[np.float64]:
        cell = replication * len(POINTS) + point if how == "fitted" else replication
        n_cells = int(cell.max()) + 1
        size = n_cells * N_FOLDS
        inside = (cell * N_FOLDS + fold)[rows]
        count = np.bincount(inside, minlength=size).reshape(n_cells, N_FOLDS)
        total = np.bincount(inside, weights=target[rows], minlength=size).reshape(n_cells, N_FOLDS)
        count, total = (table.sum(axis=1, keepdims=True) - table for table in (count, total))
        # An arm can be missing at one x in small logs: then the mean there is that of a coin.
        mean = (total + 0.5 * (count == 0)) / np.maximum(count, 1)
        return mean[cell, fold]

    everyone = np.ones(len(log), dtype=bool)
    means = {
        name: frequency(moment.observed(log), log.t == moment.arm, outcome)
        for name, moment in MOMENTS.items()
    }
    return LogNuisances.from_means(
        propensities()[point] if propensity == "known" else frequency(log.t, everyone, propensity), means
    )
