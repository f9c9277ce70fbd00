"""Tables of chapter 11 on grocery coupons, by one specification that was declared in advance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cfmtl_lib.datasets.case_studies.complete_journey import DEMOGRAPHICS, HOUSEHOLD_FEATURES
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.nuisances.cross_fitting import crossfit
from cfmtl_lib.nuisances.moments import LogNuisances
from cfmtl_lib.policy.allocation import treatable
from cfmtl_lib.policy.rewards import stratum_rewards
from cfmtl_lib.runtime.progress import track
from cfmtl_lib.strata import strata_from_moments
from cfmtl_lib.value.calibration import effective_sample_size
from cfmtl_lib.value.treated import treated_scores, treated_shares, treated_value


@dataclass(frozen=True)
class Specification:
    """Choices that were fixed before any result was seen.

    Parameters
    ----------
    folds : int
        Number of cross-fitting folds for the shares, over households.
    clip : float
        Distance from 1: propensities above 1 - clip become 1 - clip.
    scenario : str
        Scenario of the cost: "coupon", because a coupon costs only in a purchase.
    cost : float
        Cost of a redeemed coupon, in conversions net of it.
    budget : float
        Largest share mailed among those who were mailed, the only rows with counterparts in the log.
    splits : int
        Number of random halvings of the households. Each half's rule and nuisances come from the other.
    """

    folds: int = 5
    clip: float = 0.01
    scenario: str = "coupon"
    cost: float = 0.4
    budget: float = 0.4
    splits: int = 20


DECLARED = Specification()
"""The specification of the published run, with the first of :data:`LEARNERS`."""

LEARNERS: dict[str, ClassifierMixin | None] = {
    "boosted trees": None,
    "logistic": LogisticRegression(max_iter=2000),
}
"""Learners of propensity and means: the declared default for tables, and another for comparison."""


def study_log(table: pd.DataFrame) -> IncentiveLog:
    """Turn the unit table into a log, clustered by household."""
    return IncentiveLog.from_frame(
        table,
        treatment="mailed",
        collected="redeemed",
        converted="bought",
        features=list(HOUSEHOLD_FEATURES),
        cluster="household",
    )


def description(table: pd.DataFrame) -> pd.DataFrame:
    """Count rows and households, and compute the observed means of the two arms."""
    rows = {}
    for name, part in (("mailed", table[table["mailed"] == 1]), ("not mailed", table[table["mailed"] == 0])):
        rows[name] = {
            "rows": len(part),
            "households": part["household"].nunique(),
            "redeemed": part["redeemed"].mean(),
            "bought": part["bought"].mean(),
            "redeemed, not bought": ((part["redeemed"] == 1) & (part["bought"] == 0)).mean(),
            "demographics known": part[list(DEMOGRAPHICS)].notna().any(axis=1).mean(),
            "spent": part["spent"].mean(),
            "trips": part["trips"].mean(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm").reset_index()


def overlap_among_mailed(
    log: IncentiveLog, nuisances: LogNuisances, spec: Specification = DECLARED
) -> pd.DataFrame:
    """Measure how well mailing is predicted, and the overlap of the unmailed with the mailed; one row."""
    scores = treated_scores(log, nuisances, clip=spec.clip)
    odds = scores.odds[~scores.treated]
    e = nuisances.propensity
    return pd.DataFrame(
        [
            {
                "auc": roc_auc_score(log.t, e),
                "mailed_above_95": float((e[scores.treated] > 0.95).mean()),
                "unmailed_below_5": float((e[~scores.treated] < 0.05).mean()),
                "largest_weight": float(odds.max()),
                "effective_unmailed": effective_sample_size(odds),
                "clipped": scores.n_clipped,
            }
        ]
    )


def shares(
    table: pd.DataFrame,
    spec: Specification = DECLARED,
    *,
    learner: ClassifierMixin | None = None,
) -> dict[str, pd.DataFrame]:
    """Estimate strata shares among the mailed, and the overlap behind them.

    Returns
    -------
    dict of str to DataFrame
        Keys "shares" and "overlap".
    """
    log = study_log(table)
    nuisances = crossfit(log, outcome=learner, folds=spec.folds)
    return {
        "shares": treated_shares(log, nuisances, clip=spec.clip).reset_index(),
        "overlap": overlap_among_mailed(log, nuisances, spec),
    }


def _net(m: dict[str, NDArray], tau: NDArray, spec: Specification) -> NDArray:
    return (1 + spec.cost) * (m["y1"] - m["y0"]) - spec.cost * tau


def _by_strata(m: dict[str, NDArray], tau: NDArray, spec: Specification) -> NDArray:
    return strata_from_moments(m["y1"], m["y0"], m["c1"], tau) @ stratum_rewards(spec.scenario, spec.cost)


RULES: dict[str, Callable[[dict[str, NDArray], Specification], NDArray]] = {
    "response": lambda m, spec: m["y1"] - spec.cost,
    "uplift": lambda m, spec: (1 + spec.cost) * (m["y1"] - m["y0"]) - spec.cost,
    "net-value uplift": lambda m, spec: _net(m, m["cy1"], spec),
    "five strata": lambda m, spec: _by_strata(m, m["cy1"], spec),
    "five strata, product form": lambda m, spec: _by_strata(m, m["c1"] * m["y1"], spec),
}
"""Score of each rule from fitted means; the highest scores are mailed."""

LEAST_REDEMPTION = "least predicted redemption"
NOBODY = "nobody"


def rule_values(
    table: pd.DataFrame,
    spec: Specification = DECLARED,
    *,
    learner: ClassifierMixin | None = None,
) -> dict[str, pd.DataFrame]:
    """Estimate the value among the mailed of each budgeted rule, and the five-strata rule's lead over it.

    In each split every household's rule and nuisances come from the other half. There are three budgets.
    "filled" takes the highest scores whatever they are, so that rules differ only in whom they choose.
    "positive" leaves out scores that are not positive, as the paper does. "of all active" fills the budget
    over all active households instead of the mailed; its value is still that among the mailed.

    Returns
    -------
    dict of str to DataFrame
        Keys "values" and "differences" (value of the five-strata rule less that of the rule). Columns
        ``budget``, ``rule``, ``value``, ``standard_error`` (mean over splits, clustered by household),
        ``spread`` (standard deviation over splits), ``mailed`` (share of the mailed rows).
    """
    log = study_log(table)
    household = table["household"].to_numpy()
    found: dict[str, list[dict[str, object]]] = {"values": [], "differences": []}
    households = np.unique(household)
    for split in track(range(spec.splits), total=spec.splits, label="Splits"):
        first = np.random.default_rng(split).permutation(households)[: len(households) // 2]
        halves = np.isin(household, first).astype(int)
        nuisances = crossfit(log, outcome=learner, folds=halves, seed=split)
        for budget, policies in _policies(nuisances, log, spec).items():
            for name, policy in policies.items():
                mine = treated_value(
                    policy, log, nuisances, scenario=spec.scenario, cost=spec.cost, clip=spec.clip
                )
                gap = treated_value(
                    policies["five strata"],
                    log,
                    nuisances,
                    other=policy,
                    scenario=spec.scenario,
                    cost=spec.cost,
                    clip=spec.clip,
                )
                mailed = float(policy[log.t == 1].mean())
                for kind, estimate in (("values", mine), ("differences", gap)):
                    found[kind].append(
                        {
                            "budget": budget,
                            "rule": name,
                            "value": estimate.value,
                            "standard_error": estimate.standard_error,
                            "mailed": mailed,
                        }
                    )
    return {kind: _over_splits(pd.DataFrame(rows)) for kind, rows in found.items()}


def _policies(
    nuisances: LogNuisances, log: IncentiveLog, spec: Specification
) -> dict[str, dict[str, NDArray[np.bool_]]]:
    means = {
        "y1": nuisances.converted_treated,
        "y0": nuisances.converted_untreated,
        "c1": nuisances.collected_treated,
        "cy1": nuisances.collected_and_converted_treated,
    }
    scores = {name: rule(means, spec) for name, rule in RULES.items()}
    mailed, everyone = log.t == 1, np.ones(len(log), dtype=bool)
    same = {
        LEAST_REDEMPTION: _highest(-means["cy1"], mailed, spec.budget),
        NOBODY: ~everyone,
    }
    return {
        "filled": {name: _highest(score, mailed, spec.budget) for name, score in scores.items()} | same,
        "positive": {
            name: _highest(score, mailed, spec.budget) & (score > 0) for name, score in scores.items()
        }
        | same,
        "of all active": {name: _highest(score, everyone, spec.budget) for name, score in scores.items()}
        | {**same, LEAST_REDEMPTION: _highest(-means["cy1"], everyone, spec.budget)},
    }


def _highest(score: NDArray[np.float64], population: NDArray[np.bool_], budget: float) -> NDArray[np.bool_]:
    """Select all rows above the score that a share ``budget`` of the population exceeds."""
    of_population = np.sort(score[population])[::-1]
    return score > of_population[treatable(len(of_population), budget)]


def _over_splits(rows: pd.DataFrame) -> pd.DataFrame:
    grouped = rows.groupby(["budget", "rule"], sort=False)
    return grouped.agg(
        value=("value", "mean"),
        standard_error=("standard_error", "mean"),
        spread=("value", "std"),
        mailed=("mailed", "mean"),
    ).reset_index()


def all_tables(
    table: pd.DataFrame,
    placebo: pd.DataFrame,
    spec: Specification = DECLARED,
) -> dict[str, pd.DataFrame]:
    """Compute every table of the chapter.

    Parameters
    ----------
    table, placebo : DataFrame
        Tables of :func:`~cfmtl_lib.datasets.case_studies.complete_journey.household_campaigns`, the second
        with ``placebo=True``.
    spec : Specification

    Returns
    -------
    dict of str to DataFrame
        Keys ``specification, description``, and with a column ``learner`` the keys
        ``shares, overlap, placebo_shares, placebo_overlap, values, differences``.
    """
    by_learner: dict[str, list[pd.DataFrame]] = {}
    for name, learner in LEARNERS.items():
        before = shares(placebo, spec, learner=learner)
        found = {
            **shares(table, spec, learner=learner),
            **{f"placebo_{kind}": part for kind, part in before.items()},
            **rule_values(table, spec, learner=learner),
        }
        for kind, part in found.items():
            by_learner.setdefault(kind, []).append(part.assign(learner=name))
    return {
        "specification": pd.DataFrame(list(asdict(spec).items()), columns=["setting", "value"]),
        "description": description(table),
        **{kind: pd.concat(parts, ignore_index=True) for kind, parts in by_learner.items()},
    }
