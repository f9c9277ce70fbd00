"""A randomised cash incentive: the shares of the strata by comparison of the arms, and by the library.

First half of the tables of chapter 12. Treatment T is any incentive, conversion Y that the result of the test
is learnt. The cash is paid when it is learnt, hence collection is C = T Y.
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
"""What nuisances see; known before the vouchers were drawn."""

LEAST_KEPT = 0.2
"""Share of untreated rows kept, by the thinning, where learning without an incentive is likeliest."""


def classifier() -> Pipeline:
    """The one declared model of means and propensities: a ridge logit, quadratic in the features."""
    return make_pipeline(
        SimpleImputer(strategy="median"),
        PolynomialFeatures(2, include_bias=False),
        StandardScaler(),
        LogisticRegression(max_iter=1000),
    )


def analysed(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Rows with incentive, result and village; shape (n,)."""
    return table[["offered", "learnt", "village"]].notna().all(axis=1).to_numpy()


def design_propensity(table: pd.DataFrame) -> NDArray[np.float64]:
    """Share of the area's rows that were offered an incentive; shape (n,)."""
    return table.groupby("area")["offered"].transform("mean").to_numpy(dtype=np.float64)


def trial_log(table: pd.DataFrame, *, propensity: ArrayLike | None = None) -> IncentiveLog:
    """The trial as a log with C = T Y, clustered by village.

    Parameters
    ----------
    table : DataFrame
        Rows of :func:`~cfmtl_lib.datasets.case_studies.thornton.tidy_cash_trial` that :func:`analysed`
        admits.
    propensity : array_like of shape (n,), optional
    """
    return IncentiveLog.from_frame(
        table.assign(collected=table["offered"] * table["learnt"]),
        treatment="offered",
        collected="collected",
        converted="learnt",
        features=TRIAL_FEATURES,
        propensity=None if propensity is None else np.asarray(propensity),
        cluster="village",
    )


def direct_shares(table: pd.DataFrame, block: ArrayLike | None = None) -> pd.DataFrame:
    """The shares as differences of the arms' means, without a model; columns as of ``strata_shares``.

    Parameters
    ----------
    table : DataFrame
        Of analysed rows.
    block : array_like of shape (n,), optional
        Within which the arms are compared.
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
    """Who was drawn into the trial, by area, and whether villages of an area agree with one probability."""
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
    """Offered less not offered, within areas, of what was fixed before the draw; then of missing results.

    Returns
    -------
    DataFrame
        variable, rows, not_offered (mean), difference, standard_error (villages), z, standardised (difference
        over the standard deviation).
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
    """Shares of the strata by direct comparison and by the library; long, a row a source and stratum."""
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
    """Coupon buyers' share at the worst that missing values allow; direct comparison within areas.

    Returns
    -------
    DataFrame
        sample (which rows), rows, lowest, lowest_se, highest, highest_se.
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
    """Sharp bounds on the shares if some people may be deterred by the cash."""
    log = trial_log(sample)
    nuisances = crossfit(log, outcome=classifier(), propensity=design_propensity(sample))
    return strata_bounds(log, nuisances, exclusion=False).rename_axis("stratum").reset_index()


def prognosis(sample: pd.DataFrame) -> NDArray[np.float64]:
    """Rank in (0, 1] of the predicted probability of learning without an incentive; shape (n,)."""
    x = sample[list(TRIAL_FEATURES)].to_numpy()
    untreated = (sample["offered"] == 0).to_numpy()
    model = classifier().fit(x[untreated], sample.loc[untreated, "learnt"].astype(int))
    predicted = model.predict_proba(x)[:, 1]
    return stats.rankdata(predicted) / len(predicted)


def thinned_shares(sample: pd.DataFrame, seeds: int) -> pd.DataFrame:
    """Coupon buyers' share in samples that were confounded on purpose, against the share in the whole trial.

    Untreated rows are kept with a probability that falls, from 1 to :data:`LEAST_KEPT`, in the rank of
    :func:`prognosis`; treated ones so that the population stays
    (:func:`~cfmtl_lib.value.randomised.complementary_thinning`).

    Returns
    -------
    DataFrame
        seed, source, rows, untreated (how many), value, standard_error, target (within areas, whole trial),
        error, z.
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
    """Where endless thinnings of this trial would lead with the known propensity, computed instead of drawn.

    A score is weighted by the probability that its row is kept; means are fitted on the whole trial. The
    limit is not exactly the target: what the lottery left unbalanced is weighted anew by the thinning.

    Returns
    -------
    DataFrame of one row
        source, target, limit, error.
    """
    target = float(direct_shares(sample, sample["area"])["value"]["coupon buyer"])
    keep, propensity = _thinning(sample)
    log = trial_log(sample)
    whole = crossfit(log, outcome=classifier(), propensity=propensity)
    limit = float(np.average(unit_scores(log, whole).strata()[:, COUPON_BUYER], weights=keep))
    row = {"source": "library, known propensity", "target": target, "limit": limit, "error": limit - target}
    return pd.DataFrame([row])


def _thinning(sample: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probability that each row is kept, and the propensity among the kept; each of shape (n,)."""
    keep_untreated = 1 - (1 - LEAST_KEPT) * prognosis(sample)
    keep_treated, propensity = complementary_thinning(design_propensity(sample), keep_untreated)
    return np.where(sample["offered"] == 1, keep_treated, keep_untreated), propensity
