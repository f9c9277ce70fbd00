r"""Simulated worlds that suit different learners, with known strata probabilities.

Strata follow a multinomial logit of functions of x and treatment a logit, as in
:mod:`~cfmtl_lib.experiments.evaluation.worlds`, of which two worlds are taken. The campaign is
:func:`~cfmtl_lib.datasets.simulation_campaign.simulated_campaign`. No one learner is the best everywhere.
Trees suit steps, lines suit lines. In the rare worlds hardly any rule earns more than treating nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfmtl_lib.checks import check_count, check_seed
from cfmtl_lib.datasets.simulation_campaign import CAMPAIGN_FEATURES, simulated_campaign
from cfmtl_lib.errors import check_choice
from cfmtl_lib.experiments.evaluation.worlds import WORLDS, World, draw_log
from cfmtl_lib.logs.incentive_log import IncentiveLog

CAMPAIGN = "campaign"

_DENSE = np.random.default_rng(20).normal(scale=0.35, size=(15, 6))
"""Slopes of five strata and of the treatment in each of fifteen features, drawn once."""


def _steps(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores of strata that are constant in boxes of two or three features."""
    a, b = (x[:, 0] > 0.2) & (x[:, 1] > -0.3), (x[:, 2] > 0) & (x[:, 0] <= 0.2)
    c, d = (x[:, 3] > 0.5) | (x[:, 4] < -1.0), (x[:, 1] <= -0.3) & (x[:, 5] > 0)
    return np.stack(
        [0.8 - 1.0 * a, 0.2 + 0.9 * c, -0.4 + 0.8 * d, -1.4 + 2.4 * (a & ~c) + 1.2 * (b & d), -0.5 + 1.6 * b],
        axis=1,
    )


def _lines(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([0.4, 0.2, -0.2, -0.6, 0.0]) + x @ _DENSE[:, :5]


def _rare_buyers(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """About one coupon buyer in three hundred, and many always buyers whom an incentive only costs."""
    return np.stack(
        [
            1.0 + 0.4 * x[:, 0],
            0.3 - 0.5 * x[:, 1],
            -0.2 + 0.3 * x[:, 2],
            -4.6 + 1.1 * x[:, 3] + 0.5 * x[:, 0],
            0.1 + 0.8 * x[:, 1] - 0.6 * x[:, 3],
        ],
        axis=1,
    )


def _rare_conversions(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hardly anybody converts at all: half a per cent through the incentive, two per cent anyway."""
    return np.stack(
        [
            3.2 + 0.3 * x[:, 0],
            -1.5 + 0.5 * x[:, 1],
            1.2 - 0.4 * x[:, 2],
            -2.2 + 0.6 * x[:, 3],
            -0.6 + 0.6 * x[:, 1] + 0.4 * x[:, 0],
        ],
        axis=1,
    )


def _mild(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return -0.3 + 0.7 * x[:, 0] + 0.5 * x[:, 1] - 0.4 * x[:, 2]


LEARNER_WORLDS: dict[str, World | None] = {
    CAMPAIGN: None,
    "tree-like": World("strata change at steps of six features", 10_000, _steps, _mild),
    "dense linear": World(
        "fifteen features, each a little, on lines", 10_000, _lines, lambda x: x @ _DENSE[:, 5], 15
    ),
    "strong confounding": WORLDS["strong confounding"],
    "nonlinear": WORLDS["nonlinear"],
    "rare coupon buyers": World("one coupon buyer in three hundred", 10_000, _rare_buyers, _mild),
    "rare conversions": World("two conversions in a hundred", 10_000, _rare_conversions, _mild),
}
"""Worlds by name; the campaign has a table of its own."""

RARE = ("rare coupon buyers", "rare conversions")
"""Worlds in which the policy that knows the truth earns next to nothing."""


@dataclass(frozen=True, eq=False)
class Population:
    """Rows of a world, with their true strata probabilities.

    Attributes
    ----------
    log : IncentiveLog
    x : ndarray of shape (n, p), or DataFrame
        Features, as fitted models take them.
    strata_probability : ndarray of shape (n, 5), float64
    """

    log: IncentiveLog
    x: Any
    strata_probability: NDArray[np.float64]


def draw_population(world: str, n: int, seed: int) -> Population:
    """Draw n rows of a world.

    Examples
    --------
    >>> draw_population("rare coupon buyers", 5000, seed=1).strata_probability[:, 3].mean().round(4).item()
    0.0032
    """
    check_choice("world", world, LEARNER_WORLDS)
    n, seed, rules = check_count(n, "n"), check_seed(seed), LEARNER_WORLDS[world]
    if rules is None:
        campaign = simulated_campaign(n, seed=seed)
        return Population(
            campaign.log(), campaign.table[list(CAMPAIGN_FEATURES)], campaign.strata_probability
        )
    drawn = draw_log(rules, [seed], n)
    return Population(drawn.log, drawn.x, drawn.strata_probability)
