"""Take-up of 401(k) pension plans: strata shares without a lottery, checks of them, and targeting.

Treatment T is eligibility, collection C is participation. Conversion Y means net financial assets above the
median of the table. The cost of a plan is paid for those who participate, as cash is.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from cfmtl_lib.checks import check_count
from cfmtl_lib.errors import TrustWarning
from cfmtl_lib.experiments.cases.cash_targeting import judged_rules
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.nuisances.cross_fitting import crossfit, fold_of_rows
from cfmtl_lib.nuisances.moments import LogNuisances
from cfmtl_lib.strata import STRATA
from cfmtl_lib.value.bounds import strata_bounds
from cfmtl_lib.value.confounding import confounding_bound
from cfmtl_lib.value.diagnostics import balance, check_implications, overlap, propensity_calibration
from cfmtl_lib.value.estimates import strata_shares

PLAN_FEATURES = ("income", "age", "family_size", "married", "male", "ira")
"""Features that eligibility may depend on: all that the table has."""

N_FOLDS = 5


def plan_log(table: pd.DataFrame, features: tuple[str, ...] = PLAN_FEATURES) -> IncentiveLog:
    """Turn the table of :mod:`~cfmtl_lib.datasets.case_studies.retirement_plan` into a log."""
    return IncentiveLog.from_frame(
        table,
        treatment="eligible",
        collected="participates",
        converted="above_median",
        features=list(features),
    )


def retirement_study(
    table: pd.DataFrame,
    *,
    seeds: int = 1,
    stratum: NDArray[np.int8] | None = None,
    outcome: ClassifierMixin | None = None,
) -> dict[str, pd.DataFrame]:
    """Compute all tables of the section on pension plans in chapter 12.

    Parameters
    ----------
    table : DataFrame
        Rows of :func:`~cfmtl_lib.datasets.case_studies.retirement_plan.tidy_retirement_plan`.
    seeds : int
        Number of splits into folds by which rules are judged: seeds 0, 1, ...
    stratum : ndarray of shape (n,), optional
        True strata, if the table is simulated.
    outcome : classifier, optional
        Classifier of means and propensity; the library's default if left out.

    Returns
    -------
    dict of str to DataFrame
        Keys ``plan_design`` (means by arm), ``plan_shares`` (by source and stratum) and ``plan_bounds`` (by
        assumption that is given up). ``plan_checks`` has one row a check. ``plan_targeting`` and
        ``plan_rules`` are as of :func:`~cfmtl_lib.experiments.cases.cash_targeting.judged_rules`.

    Raises
    ------
    InputError
        If ``seeds`` is not positive.
    """
    seeds = check_count(seeds, "seeds")
    log = plan_log(table)
    folds = [fold_of_rows(log, N_FOLDS, seed) for seed in range(seeds)]
    fits = [
        crossfit(log, outcome=outcome, propensity=outcome, folds=fold, seed=seed)
        for seed, fold in enumerate(folds)
    ]
    # Both predictions of a row come from folds without it: one set of fits makes the rules and judges them.
    splits = [(fit, fit, fold) for fit, fold in zip(fits, folds, strict=True)]
    values, rules = judged_rules(log, splits, stratum)
    return {
        "plan_design": _design(table),
        "plan_shares": _shares(table, log, fits[0], stratum, outcome),
        "plan_bounds": _bounds(log, fits[0]),
        "plan_checks": _checks(table, log, fits[0]),
        "plan_targeting": values,
        "plan_rules": rules,
    }


def quadratic_logit() -> Pipeline:
    """Make a ridge logit, quadratic in the features, as a second model of means and propensities."""
    return make_pipeline(
        StandardScaler(),
        PolynomialFeatures(2, include_bias=False),
        StandardScaler(),
        LogisticRegression(max_iter=2000),
    )


def _design(table: pd.DataFrame) -> pd.DataFrame:
    shown = ["participates", "above_median", *PLAN_FEATURES]
    means = table.groupby("eligible")[shown].mean()
    means.insert(0, "rows", table.groupby("eligible").size())
    return means.reset_index()


def _shares(
    table: pd.DataFrame,
    log: IncentiveLog,
    fit: LogNuisances,
    stratum: NDArray[np.int8] | None,
    outcome: ClassifierMixin | None,
) -> pd.DataFrame:
    """Estimate the shares with all features, and with fewer of them."""

    def hidden(*names: str) -> pd.DataFrame:
        part = plan_log(table, tuple(name for name in PLAN_FEATURES if name not in names))
        return strata_shares(part, crossfit(part, outcome=outcome, propensity=outcome, folds=N_FOLDS))

    arms = np.full(len(log), log.t.mean())
    constant = LogNuisances.from_means(
        arms,
        {
            name: np.full(len(log), float(observed[log.t == arm].mean()))
            for name, observed, arm in (
                ("converted_treated", log.y, 1),
                ("converted_untreated", log.y, 0),
                ("collected_treated", log.c, 1),
                ("collected_and_converted_treated", log.c * log.y, 1),
            )
        },
    )
    with warnings.catch_warnings():
        # That the arms as they are, and less than all features, mislead is what they are shown for.
        warnings.simplefilter("ignore", TrustWarning)
        sources = {
            "arms compared as they are": strata_shares(log, constant),
            "income hidden": hidden("income"),
            "income and IRA hidden": hidden("income", "ira"),
            "IRA hidden": hidden("ira"),
            "all features, quadratic logit": strata_shares(
                log, crossfit(log, outcome=quadratic_logit(), propensity=quadratic_logit(), folds=N_FOLDS)
            ),
        }
    sources["all features"] = strata_shares(log, fit)
    parts = [part.reset_index().assign(source=source) for source, part in sources.items()]
    found = pd.concat(parts, ignore_index=True)[
        ["source", "stratum", "value", "standard_error", "lower", "upper"]
    ]
    if stratum is not None:
        counted = pd.Series(np.bincount(stratum, minlength=len(STRATA)) / len(stratum), index=list(STRATA))
        found["true_share"] = found["stratum"].map(counted)
    return found


def _bounds(log: IncentiveLog, fit: LogNuisances) -> pd.DataFrame:
    """Bound the shares with one assumption given up at a time."""
    found = {name: strata_bounds(log, fit, **{name: False}) for name in ("exclusion", "monotonicity")}
    return pd.concat(found, names=["without", "stratum"]).reset_index()


def _checks(table: pd.DataFrame, log: IncentiveLog, fit: LogNuisances) -> pd.DataFrame:
    """Compute one number a check: overlap, balance, calibration, implications, strength of confounding."""
    arms = overlap(log, fit)
    weighted = balance(log, fit, table[list(PLAN_FEATURES)])
    implied = check_implications(log, fit)
    # At a cost of 0 the value of a plan for everybody is the share of coupon buyers.
    bound = confounding_bound(
        np.ones(len(log)), log, fit, outcome_strength=0.0, treatment_strength=0.0, scenario="cash", cost=0.0
    )
    numbers = {
        "least propensity": arms["q0"].min(),
        "largest propensity": arms["q100"].max(),
        "effective rows, eligible": arms.loc["treated", "effective_sample_size"],
        "effective rows, not eligible": arms.loc["untreated", "effective_sample_size"],
        "largest |difference| before weighting": weighted["before"].abs().max(),
        "largest |difference| after weighting": weighted["after"].abs().max(),
        "calibration of the propensity, p": propensity_calibration(log, fit).attrs["p_value"],
        "implications, least adjusted p": implied["p_holm"].min(),
        "robustness value": bound.robustness_value,
        "robustness value of the limit": bound.robustness_value_limit,
    }
    return pd.DataFrame({"check": list(numbers), "value": [float(v) for v in numbers.values()]})
