r"""Simulated worlds that are easy or hard for the intervals of a log, with the truth behind them.

Features x are standard normal. Strata follow a multinomial logit :math:`P(s|x) \propto \exp(f_s(x))` and
treatment a logit :math:`e(x) = \sigma(g(x))`, within bounds. Each world has its own f, g, size and way to
assign.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.strata import draw_strata, observe

Scores = Callable[[NDArray[np.float64]], NDArray[np.float64]]

_INTERCEPTS = np.array([0.3, -0.4, 0.0, -0.2, -0.1])
_SLOPES = np.array(
    [
        [0.0, -0.6, 0.2, 0.9, -0.3, 0.0],
        [0.0, 0.5, 0.0, -0.7, 0.8, 0.2],
        [0.1, 0.0, 0.6, 0.4, 0.3, 0.0],
        [0.0, 0.4, -0.5, 0.0, 0.5, -0.3],
        [0.0, 0.2, 0.3, -0.4, 0.0, 0.4],
    ]
).T


def _linear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return _INTERCEPTS + x[:, :6] @ _SLOPES


def _mild(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return -0.3 + 0.7 * x[:, 0] + 0.5 * x[:, 1] - 0.4 * x[:, 2]


def _bent(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Index with a product, a step and a wave, on which strata and treatment both depend."""
    return x[:, 0] * x[:, 1] + (x[:, 2] > 0.3) - np.sin(2 * x[:, 3])


def _strong(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Index of strong confounding: it decides treatment almost alone, and conversions too."""
    return 1.2 * x[:, 0] + 0.9 * x[:, 1] * x[:, 2] - 0.7 * x[:, 3]


def _strata_of(index: Scores, by_index: list[float], offset: list[float]) -> Scores:
    effect_of_x4 = np.array([0.0, 0.0, 0.3, 0.8, 0.0])

    def scores(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array(offset) + np.outer(index(x), by_index) + np.outer(x[:, 4], effect_of_x4)

    return scores


@dataclass(frozen=True)
class World:
    """Population of units and the way in which a log of them is made.

    Attributes
    ----------
    description : str
    n : int
        Rows of a log.
    strata, treatment : callable
        Functions f, with values of shape (n, 5), and g, with values of shape (n,).
    n_features : int
    bounds : (float, float)
        Bounds of the propensity, (0, 1) for none.
    known : bool
        Whether the log carries its propensity.
    cluster_size : int
        Rows of a cluster, which share features, chances and treatment; 1 for independent rows.
    by_rule : bool
        Whether treatment is g(x) > 0 without chance, so that there is no overlap.
    """

    description: str
    n: int
    strata: Scores
    treatment: Scores
    n_features: int = 6
    bounds: tuple[float, float] = (0.0, 1.0)
    known: bool = False
    cluster_size: int = 1
    by_rule: bool = False


WORLDS: dict[str, World] = {
    "known propensity": World(
        "designed assignment, nonlinear outcomes",
        1500,
        _strata_of(_bent, [-0.6, 0.8, -0.2, 0.3, 0.6], [0.3, -0.3, 0.0, -0.2, -0.4]),
        lambda x: 0.2 + 0.8 * x[:, 0] * x[:, 1],
        bounds=(0.05, 0.95),
        known=True,
    ),
    "few treated": World(
        "about 5 % treated",
        3000,
        _linear,
        lambda x: -3.3 + 0.5 * x[:, 0] + 0.4 * x[:, 1] - 0.3 * x[:, 2],
    ),
    "many features": World("30 features, of which 6 matter", 1500, _linear, _mild, n_features=30),
    "rare outcomes": World(
        "few conversions", 4000, lambda x: _linear(x) + np.array([4.2, 0.0, -0.2, 0.0, 0.0]), _mild
    ),
    "nonlinear": World(
        "product, step and wave in propensity and outcomes",
        2000,
        _strata_of(_bent, [-0.6, 0.8, -0.2, 0.0, 0.6], [0.3, -0.3, 0.0, -0.2, -0.4]),
        lambda x: -0.4 + 0.8 * _bent(x),
    ),
    "strong confounding": World(
        "propensities from .02 to .98",
        3000,
        _strata_of(_strong, [-0.5, 0.9, 0.0, -0.4, 0.8], [0.0, -0.3, -0.3, -0.2, -0.2]),
        lambda x: 1.3 * _strong(x),
        bounds=(0.02, 0.98),
    ),
    "clusters": World("250 clusters of 8 rows, treated together", 2000, _linear, _mild, cluster_size=8),
    "small log": World("500 rows", 500, _linear, _mild),
    "rule": World("everybody above a line was treated, nobody below", 2000, _linear, _mild, by_rule=True),
}
"""Worlds by name. In the last one no interval can be right, and a caution has to say so."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Log drawn in a world, with the truth of its rows.

    Attributes
    ----------
    log : IncentiveLog
    x : ndarray of shape (n, p), float64
        Features by which policies decide.
    strata_probability : ndarray of shape (n, 5), float64
    """

    log: IncentiveLog
    x: NDArray[np.float64]
    strata_probability: NDArray[np.float64]


def draw_log(world: World, seed: list[int], n: int | None = None) -> Drawn:
    """Draw a log of a world; of n rows, or of as many as the world says.

    Examples
    --------
    >>> draw_log(WORLDS["few treated"], [0]).log
    IncentiveLog(3,000 rows of 6 features: 136 treated, 77 collected, 1,060 converted)
    """
    rng = np.random.default_rng(seed)
    n = world.n if n is None else n
    x = rng.normal(size=(n, world.n_features))
    shift: NDArray[np.float64] | float = 0.0
    cluster, seen, by = None, x, x
    if world.cluster_size > 1:
        groups = n // world.cluster_size
        cluster = np.arange(n) % groups
        common = 0.8 * rng.normal(size=(groups, world.n_features))[cluster]
        x = common + 0.6 * x
        shift = 0.7 * rng.normal(size=(groups, 5))[cluster]
        seen, by = np.hstack([x, common[:, :3]]), common
    p = softmax(world.strata(x) + shift, axis=1)
    stratum = draw_strata(p, rng)
    if world.by_rule:
        e = (world.treatment(by) > 0).astype(np.float64)
        treated = e.astype(np.int8)
    else:
        e = expit(world.treatment(by)).clip(*world.bounds)
        chance = rng.random(n) if cluster is None else rng.random(int(cluster.max()) + 1)[cluster]
        treated = (chance < e).astype(np.int8)
    collected, converted = observe(stratum, treated)
    log = IncentiveLog(
        seen, treated, collected, converted, propensity=e if world.known else None, cluster=cluster
    )
    return Drawn(log, x, p)
