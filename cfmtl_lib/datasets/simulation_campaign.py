"""Simulated table of campaign rows as companies have them: numbers, categories, gaps, targeting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, softmax

from cfmtl_lib.checks import check_count, check_number, check_seed
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.strata import draw_strata, observe

CAMPAIGN_FEATURES = ("age", "days_since_order", "orders", "spent", "city", "channel", "member")
"""Columns that were known before the mailing."""

CITIES = ("Bergen", "Bodø", "Drammen", "Hamar", "Oslo", "Stavanger", "Tromsø", "Trondheim")
CHANNELS = ("app", "shop", "web")


@dataclass(frozen=True, eq=False)
class CampaignStudy:
    """Table of campaign rows with the truth behind it.

    Attributes
    ----------
    table : DataFrame
        One row per customer: ``customer``, :data:`CAMPAIGN_FEATURES`, ``mailed``, ``redeemed``, ``bought``,
        ``bought_before``. The last is a purchase in the weeks before the mailing, unaffected by it.
    stratum : ndarray of shape (n,), int8
    strata_probability : ndarray of shape (n, 5), float64
        P(stratum | features), the features complete.
    propensity : ndarray of shape (n,), float64
    """

    table: pd.DataFrame
    stratum: NDArray[np.int8]
    strata_probability: NDArray[np.float64]
    propensity: NDArray[np.float64]

    def log(self, *, known_propensity: bool = False) -> IncentiveLog:
        """Return the table as a log."""
        return IncentiveLog.from_frame(
            self.table,
            treatment="mailed",
            collected="redeemed",
            converted="bought",
            features=list(CAMPAIGN_FEATURES),
            propensity=self.propensity if known_propensity else None,
        )


def simulated_campaign(
    n: int = 5000, seed: int = 0, *, generosity: float = 1.0, missing: float = 0.05
) -> CampaignStudy:
    r"""Draw a table of n customers and the log of one mailing.

    Strata follow a multinomial logit of nonlinear functions of the features. Customers who ordered lately and
    often buy anyway. Coupons move customers whose last order was some weeks ago, but not too long ago; young
    members are moved more. App users are more often coupon takers. Cities differ, and so do channels by city.
    Those who order often, and members, were mailed more: :math:`e(x)` lies in [0.1, 0.9]. Ages and cities are
    missing at random for a share of the rows.

    Parameters
    ----------
    n : int
        Rows, at least 100.
    seed : int
    generosity : float
        Generosity of the coupon, > 0. Its logarithm is added to the logit of coupon buyers. The coupon of the
        book has 1; another value gives another coupon to customers of the same population.
    missing : float
        Share of missing ages, and of missing cities, in [0, 1).

    Returns
    -------
    CampaignStudy

    Raises
    ------
    InputError
        If a parameter is out of range.

    Examples
    --------
    >>> study = simulated_campaign(2000, seed=1)
    >>> study.table.columns[:4].tolist()
    ['customer', 'age', 'days_since_order', 'orders']
    >>> study.log()
    IncentiveLog(2,000 rows of 7 features: 992 treated, 575 collected, 1,118 converted)
    """
    n = check_count(n, "n", least=100)
    generosity = check_number(generosity, "generosity", low=0, low_open=True)
    missing = check_number(missing, "missing", low=0, high=1, high_open=True)
    rng = np.random.default_rng(check_seed(seed))
    age = rng.gamma(9.0, 4.5, n).clip(18, 90).round()
    orders = rng.negative_binomial(1.5, 0.2, n)
    days = (rng.exponential(60 / (1 + 0.3 * orders)) + rng.uniform(0, 20, n)).clip(0, 365).round()
    spent = (orders * rng.lognormal(3.2, 0.6, n)).round(2)
    city = rng.choice(len(CITIES), n, p=[0.12, 0.05, 0.08, 0.05, 0.4, 0.12, 0.06, 0.12])
    channel = rng.choice(len(CHANNELS), n, p=[0.4, 0.25, 0.35])
    member = rng.random(n) < expit(-1 + 0.2 * orders)

    quiet = np.exp(-(((days - 35) / 18) ** 2))
    regular = np.tanh(orders / 6)
    young = expit((32 - age) / 4)
    local = np.array([0.3, -0.5, 0.2, -0.3, 0.0, 0.4, -0.6, 0.1])[city]
    logits = np.stack(
        [
            0.7 - 0.8 * regular + 0.3 * (channel == 1),
            -0.4 + 1.2 * regular - 0.9 * young + 0.5 * (channel == 1) * (local < 0),
            -0.9 + 0.8 * (channel == 0) - 0.5 * regular + 0.3 * local,
            -1.3 + 2.2 * quiet + 1.2 * young * member + local * (channel == 2) + np.log(generosity),
            -0.8 + 1.6 * regular + 0.7 * member - 1.2 * quiet + 0.8 * (spent > 150) + 0.4 * local,
        ],
        axis=1,
    )
    p = softmax(logits, axis=1)
    stratum = draw_strata(p, rng)
    propensity = expit(-0.7 + 0.9 * regular + 0.5 * member - 0.6 * quiet + 0.3 * (channel == 0)).clip(
        0.1, 0.9
    )
    mailed = (rng.random(n) < propensity).astype(np.int8)
    redeemed, bought = observe(stratum, mailed)
    table = pd.DataFrame(
        {
            "customer": np.arange(n),
            "age": np.where(rng.random(n) < missing, np.nan, age),
            "days_since_order": days,
            "orders": orders,
            "spent": spent,
            "city": pd.Series(np.array(CITIES, dtype=object)[city]).where(rng.random(n) >= missing, None),
            "channel": np.array(CHANNELS, dtype=object)[channel],
            "member": member,
            "mailed": mailed,
            "redeemed": redeemed,
            "bought": bought,
            "bought_before": (rng.random(n) < expit(-0.8 + 1.8 * regular - 0.4 * quiet)).astype(np.int8),
        }
    )
    return CampaignStudy(table, stratum, p, propensity)
