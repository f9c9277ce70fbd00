"""Strata shares in a randomised cash incentive trial, by comparison of the arms and by the library.

First half of the tables of chapter 12. Treatment T is any incentive. Conversion Y means that the
result of the test is learnt. The cash is paid when it is learnt, so collection is C = T Y.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.nuisances.cross_fitting import crossfit
from cfmtl_lib.strata import COUPON_BUYER, STRATA
from cfmtl_lib.value.bounds import strata_bounds
from cfmtl_lib.value.estimates import mean_estimate, strata_shares
from cfmtl_lib.value.randomised import arm_means, arm_scores, complementary_thinning
from cfmtl_lib.value.scores import unit_scores

TRIAL_FEATURES = ("distance", "age", "area", "hiv_positive")
"""Features of the nuisances, known before the vouchers were drawn."""

LEAST_KEPT = 0.2
"""Share of untreated rows that the thinning keeps where learning without an incentive is likeliest."""


def classifier() -> Pipeline:
    """Make the one declared model of means and propensities: a ridge logit, quadratic in the features."""
    return make_pipeline(
        SimpleImputer(strategy="median"),
        PolynomialFeatures(2, include_bias=False),
        StandardScaler(),
        LogisticRegression(max_iter=1000),
    )


def analysed(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Mark the rows with incentive, result and village; shape (n,)."""
    return table[["offered", "learnt", "village"]].notna().all(axis=1).to_numpy()


def design_propensity(table: pd.DataFrame) -> NDArray[np.float64]:
    """Compute the share of each area's rows that were offered an incentive; shape (n,)."""
    return table.groupby("area")["offered"].transform("mean").to_numpy(dtype=np.float64)


def trial_log(table: pd.DataFrame) -> IncentiveLog:
    """Turn the trial into a log with C = T Y, clustered by village.

    Parameters
    ----------
    table : DataFrame
        Rows of :func:`~cfmtl_lib.datasets.case_studies.thornton.tidy_cash_trial` that :func:`analysed`
        admits.
    """
    return IncentiveLog.from_frame(
        table.assign(collected=table["offered"] * table["learnt"]),
        treatment="offered",
        collected="collected",
        converted="learnt",
        features=TRIAL_FEATURES,
        cluster="village",
    )


def direct_shares(table: pd.DataFrame, block: ArrayLike | None = None) -> pd.DataFrame:
    """Estimate strata shares as differences of the arms' means; columns as of ``strata_shares``.

    Parameters
    ----------
    table : DataFrame
        Analysed rows of the trial.
    block : array_like of shape (n,), optional
        Blocks within which the arms are compared.
    """
    _, scores = arm_scores(table["learnt"], table["offered"], block=block)
    untreated, treated = scores.T
    of_stratum = {"never buyer": 1 - treated, "coupon buyer": treated - untreated, "always buyer": untreated}
    nothing = np.zeros(len(table))
    rows = [
        mean_estimate(of_stratum.get(name, nothing), clusters=table["village"].to_numpy()) for name in STRATA
    ]
    columns = ["value", "standard_error", "lower", "upper"]
    return pd.DataFrame(
        [[getattr(row, name) for name in columns] for row in rows], index=list(STRATA), columns=columns
    )


def design(table: pd.DataFrame) -> pd.DataFrame:
    """Describe the draw by area, and test whether its villages agree with one probability."""
    rows = []
    for area, part in table[table["offered"].notna()].groupby("area"):
        known = part[part["village"].notna()]
        counts = pd.crosstab(known["village"], known["offered"])
        rows.append(
            {
                "area": int(float(str(area))),
                "rows": len(part),
                "villages": known["village"].nunique(),
                "offered": part["offered"].mean(),
                "mean_amount": part["amount"].mean(),
                "villages_p": float(stats.chi2_contingency(counts, correction=False).pvalue),
                "result_missing_offered": part.loc[part["offered"] == 1, "learnt"].isna().mean(),
                "result_missing_not_offered": part.loc[part["offered"] == 0, "learnt"].isna().mean(),
            }
        )
    return pd.DataFrame(rows)


def balance_of(table: pd.DataFrame) -> pd.DataFrame:
    """Compare offered with not offered rows, within areas, on features before the draw and missing results.

    Returns
    -------
    DataFrame
        Columns ``variable``, ``rows``, ``not_offered`` (mean), ``difference`` (offered less not offered),
        ``standard_error`` (clustered by village), ``z``, ``standardised`` (difference over the standard
        deviation).
    """
    drawn = table[table[["offered", "village"]].notna().all(axis=1)]
    frame = drawn.assign(
        age_missing=drawn["age"].isna(),
        hiv_indeterminate=(drawn["hiv"] == -1).where(drawn["hiv"].notna()),
        result_missing=drawn["learnt"].isna(),
    )
    rows = []
    for name in ("distance", "age", "age_missing", "hiv_positive", "hiv_indeterminate", "result_missing"):
        part = frame[frame[name].notna()]
        z = part[name].astype(float)
        village, block = part["village"].to_numpy(), part["area"]
        gap = arm_means(z, part["offered"], block=block, clusters=village, reference=0.0).iloc[0]
        rows.append(
            {
                "variable": name,
                "rows": len(part),
                "not_offered": z[part["offered"] == 0].mean(),
                "difference": gap["value"],
                "standard_error": gap["standard_error"],
                "z": gap["value"] / gap["standard_error"] if gap["standard_error"] > 0 else 0.0,
                "standardised": gap["value"] / z.std() if z.std() > 0 else 0.0,
            }
        )
    return pd.DataFrame(rows)


def shares(sample: pd.DataFrame, truth: NDArray[np.int8] | None = None) -> pd.DataFrame:
    """Estimate strata shares by direct comparison and by the library, one row per source and stratum."""
    both = sample.groupby("village")["offered"].agg(lambda t: min((t == 1).sum(), (t == 0).sum()))
    paired = sample[sample["village"].map(both) >= 2].reset_index(drop=True)
    share = design_propensity(sample)
    log = trial_log(sample)
    sources = {
        "arms compared as they are": direct_shares(sample),
        "arms compared within areas": direct_shares(sample, sample["area"]),
        "arms compared within villages": direct_shares(paired, paired["village"]),
        "library, share of the area": strata_shares(
            log, crossfit(log, outcome=classifier(), propensity=share)
        ),
        "library, fitted propensity": strata_shares(log, crossfit(log, outcome=classifier())),
        "library, boosted trees": strata_shares(log, crossfit(log)),
    }
    rows = []
    for source, table in sources.items():
        n = len(paired) if source.endswith("villages") else len(sample)
        part = table.rename_axis("stratum").reset_index().assign(source=source, rows=n)
        rows.append(part[["source", "rows", "stratum", "value", "standard_error", "lower", "upper"]])
    found = pd.concat(rows, ignore_index=True)
    if truth is not None:
        counted = pd.Series(np.bincount(truth, minlength=len(STRATA)) / len(truth), index=list(STRATA))
        found["true_share"] = found["stratum"].map(counted)
    return found


def missing_results(table: pd.DataFrame) -> pd.DataFrame:
    """Bound the coupon buyers' share over all missing values, by direct comparison within areas.

    Returns
    -------
    DataFrame
        Columns ``sample`` (name of the rows used), ``rows``, ``lowest``, ``lowest_se``, ``highest``,
        ``highest_se``.
    """
    located = table[table["village"].notna()]
    drawn = located[located["offered"].notna()]
    no_draw = located[located["offered"].isna() & located["learnt"].notna()]

    def extreme(with_unknown_draw: bool, favourable: int) -> dict[str, float]:
        filled = drawn.copy()
        guess = (filled["offered"] == favourable).astype(float)
        filled["learnt"] = filled["learnt"].fillna(guess)
        if with_unknown_draw:
            of_learnt = no_draw["learnt"] if favourable else 1 - no_draw["learnt"]
            filled = pd.concat([filled, no_draw.assign(offered=of_learnt)])
        found = direct_shares(filled.reset_index(drop=True), filled["area"].to_numpy())
        return {name: float(found[name]["coupon buyer"]) for name in ("value", "standard_error")}

    rows = []
    for name, with_unknown, n in (
        ("drawn, result missing", False, len(drawn)),
        ("and result known, draw missing", True, len(drawn) + len(no_draw)),
    ):
        low, high = extreme(with_unknown, 0), extreme(with_unknown, 1)
        rows.append(
            {
                "sample": name,
                "rows": n,
                "lowest": low["value"],
                "lowest_se": low["standard_error"],
                "highest": high["value"],
                "highest_se": high["standard_error"],
            }
        )
    return pd.DataFrame(rows)


def without_exclusion(sample: pd.DataFrame) -> pd.DataFrame:
    """Compute sharp bounds on the strata shares if the cash may deter some people."""
    log = trial_log(sample)
    nuisances = crossfit(log, outcome=classifier(), propensity=design_propensity(sample))
    return strata_bounds(log, nuisances, exclusion=False).rename_axis("stratum").reset_index()


def prognosis(sample: pd.DataFrame) -> NDArray[np.float64]:
    """Rank rows in (0, 1] by predicted probability of learning without an incentive; shape (n,)."""
    x = sample[list(TRIAL_FEATURES)].to_numpy()
    untreated = (sample["offered"] == 0).to_numpy()
    model = classifier().fit(x[untreated], sample.loc[untreated, "learnt"].astype(int))
    predicted = model.predict_proba(x)[:, 1]
    return stats.rankdata(predicted) / len(predicted)


def thinned_shares(sample: pd.DataFrame, seeds: int) -> pd.DataFrame:
    """Compare the coupon buyers' share in samples confounded on purpose with that in the whole trial.

    The probability to keep an untreated row falls from 1 to :data:`LEAST_KEPT` in the rank of
    :func:`prognosis`. Treated rows are kept so that the population stays the same
    (:func:`~cfmtl_lib.value.randomised.complementary_thinning`).

    Returns
    -------
    DataFrame
        Columns ``seed``, ``source``, ``rows``, ``untreated`` (number of rows), ``value``,
        ``standard_error``, ``target`` (whole trial, within areas), ``error``, ``z``.
    """
    target = direct_shares(sample, sample["area"]).loc["coupon buyer", "value"]
    keep, propensity = _thinning(sample)
    rows = []
    for seed in range(seeds):
        kept = np.random.default_rng([seed, 12]).random(len(sample)) < keep
        part = sample[kept].reset_index(drop=True)
        log = trial_log(part)
        known = crossfit(log, outcome=classifier(), propensity=propensity[kept], seed=seed)
        blind = classifier()  # sees age and the test only: distance and area, which decide, stay hidden
        hidden = crossfit(log, outcome=blind, features=log.x[:, [1, 3]], seed=seed)
        sources = {
            "arms compared as they are": direct_shares(part),
            "arms compared within areas": direct_shares(part, part["area"]),
            "library, distance and area hidden": strata_shares(log, hidden),
            "library, known propensity": strata_shares(log, known),
            "library, fitted propensity": strata_shares(log, crossfit(log, outcome=classifier(), seed=seed)),
            "library, boosted trees": strata_shares(log, crossfit(log, seed=seed)),
        }
        for source, table in sources.items():
            value, error = table.loc["coupon buyer", ["value", "standard_error"]].to_numpy(dtype=np.float64)
            rows.append(
                {
                    "seed": seed,
                    "source": source,
                    "rows": len(part),
                    "untreated": int((part["offered"] == 0).sum()),
                    "value": value,
                    "standard_error": error,
                    "target": target,
                    "error": value - target,
                    "z": (value - target) / error,
                }
            )
    return pd.DataFrame(rows)


def thinning_limit(sample: pd.DataFrame) -> pd.DataFrame:
    """Compute the limit of infinitely many thinnings of this trial with the known propensity.

    Each score is weighted by the probability that its row is kept. Means are fitted on the whole trial. The
    limit is not exactly the target, because the thinning reweights the chance imbalance of the draw.

    Returns
    -------
    DataFrame of one row
        Columns ``source, target, limit, error``.
    """
    target = float(direct_shares(sample, sample["area"])["value"]["coupon buyer"])
    keep, propensity = _thinning(sample)
    log = trial_log(sample)
    whole = crossfit(log, outcome=classifier(), propensity=propensity)
    limit = float(np.average(unit_scores(log, whole).strata()[:, COUPON_BUYER], weights=keep))
    row = {"source": "library, known propensity", "target": target, "limit": limit, "error": limit - target}
    return pd.DataFrame([row])


def _thinning(sample: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute each row's probability to be kept, and its propensity if kept; each of shape (n,)."""
    keep_untreated = 1 - (1 - LEAST_KEPT) * prognosis(sample)
    keep_treated, propensity = complementary_thinning(design_propensity(sample), keep_untreated)
    return np.where(sample["offered"] == 1, keep_treated, keep_untreated), propensity
