"""Targeting of a randomised cash incentive: rules and amounts. Second half of the tables of chapter 12."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cfmtl_lib.checks import check_count
from cfmtl_lib.experiments.cases.cash_trial import (
    TRIAL_FEATURES,
    analysed,
    balance_of,
    classifier,
    design,
    design_propensity,
    missing_results,
    shares,
    thinned_shares,
    thinning_limit,
    trial_log,
    without_exclusion,
)
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.nuisances.cross_fitting import crossfit
from cfmtl_lib.nuisances.moments import LogNuisances
from cfmtl_lib.policy.allocation import allocate
from cfmtl_lib.policy.rewards import expected_reward
from cfmtl_lib.value.estimates import mean_estimate
from cfmtl_lib.value.randomised import arm_scores
from cfmtl_lib.value.scores import unit_scores

RULE_FEATURES = TRIAL_FEATURES[:3]
"""Features that a rule may use: not the result of the test, which the person is to learn first."""

COST_SHARES = (0.1, 0.25, 0.5, 0.75)
"""Cost of an incentive as a share of the value of one result learnt."""

BUDGET = 0.4
AMOUNT_GROUPS = (0.0, 50.0, 100.0, 200.0, 300.0)
"""Upper ends of the groups of amounts, in kwacha; the first is no incentive."""

VALUES = (100.0, 200.0, 400.0, 800.0, 1600.0)
"""Values of one result learnt, in kwacha."""

N_FOLDS = 5


def cash_study(
    table: pd.DataFrame, *, seeds: int = 1, stratum: NDArray[np.int8] | None = None
) -> dict[str, pd.DataFrame]:
    """Compute all tables of the chapter.

    Parameters
    ----------
    table : DataFrame
        All rows of :func:`~cfmtl_lib.datasets.case_studies.thornton.tidy_cash_trial`.
    seeds : int
        Number of thinnings and of splits of the villages: seeds 0, 1, ...
    stratum : ndarray of shape (n,), optional
        True strata, if the table is simulated.

    Returns
    -------
    dict of str to DataFrame
        Keys ``design, balance, shares, missing, unassumed, thinned, limit, targeting, rules, doses, steps,
        net``.

    Raises
    ------
    InputError
        If ``seeds`` is not positive.
    """
    seeds = check_count(seeds, "seeds")
    use = analysed(table)
    sample = table[use].reset_index(drop=True)
    truth = None if stratum is None else np.asarray(stratum)[use]
    values, rules = targeting(sample, seeds, truth)
    return {
        "design": design(table),
        "balance": balance_of(table),
        "shares": shares(sample, truth),
        "missing": missing_results(table),
        "unassumed": without_exclusion(sample),
        "thinned": thinned_shares(sample, seeds),
        "limit": thinning_limit(sample),
        "targeting": values,
        "rules": rules,
        **effects_by_amount(sample),
    }


def targeting(
    sample: pd.DataFrame, seeds: int, truth: NDArray[np.int8] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Learn rules on some villages and judge them on the others, averaged over splits of the villages.

    Values are in results learnt per person. Each person offered counts Y(1) - Y(0), less the cost share
    times Y(1).

    Returns
    -------
    values : DataFrame
        Columns ``cost_share, rule, share_offered, value, standard_error``; with true strata also
        ``true_value``.
    differences : DataFrame
        Columns ``cost_share, rule, against, difference, standard_error, z``: paired, clustered by village.
    """
    log = trial_log(sample)
    share = design_propensity(sample)
    visible = log.x[:, : len(RULE_FEATURES)]
    village = np.unique(sample["village"], return_inverse=True)[1]
    splits = []
    for seed in range(seeds):
        shuffled = np.random.default_rng([seed, 13]).permutation(village.max() + 1)
        fold = shuffled[village] % N_FOLDS
        judge = crossfit(log, outcome=classifier(), propensity=share, folds=fold)
        learnt = crossfit(log, outcome=classifier(), propensity=share, features=visible, folds=fold)
        splits.append((judge, learnt, fold))
    return judged_rules(log, splits, truth)


def judged_rules(
    log: IncentiveLog,
    splits: Sequence[tuple[LogNuisances, LogNuisances, NDArray[np.int64]]],
    truth: NDArray[np.int8] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Judge the rules of each split by doubly robust scores, averaged over the splits.

    Parameters
    ----------
    log : IncentiveLog
        Log of n rows, and their clusters if it has any.
    splits : sequence of (LogNuisances, LogNuisances, ndarray of shape (n,))
        Nuisances that judge, nuisances that rules are made of, and fold of each row, by split.
        Neither nuisances have seen the row that they are for.
    truth : ndarray of shape (n,), optional
        True strata.

    Returns
    -------
    values, differences : DataFrame
        See :func:`targeting`.
    """
    earned: dict[tuple[float, str], NDArray[np.float64]] = {}
    policies: dict[tuple[float, str], NDArray[np.float64]] = {}
    for judge, learnt, fold in splits:
        scores = unit_scores(log, judge)
        for cost_share in COST_SHARES:
            reward = scores.reward("cash", cost_share, 1.0)
            for rule, policy in rules_of(learnt, fold, cost_share).items():
                key = (cost_share, rule)
                earned[key] = earned.get(key, 0.0) + policy * reward / len(splits)
                policies[key] = policies.get(key, 0.0) + policy / len(splits)
    clusters = log.clusters(None)
    rows, gaps = [], []
    for (cost_share, rule), unit in earned.items():
        estimate = mean_estimate(unit, clusters=clusters)
        row: dict[str, Any] = {
            "cost_share": cost_share,
            "rule": rule,
            "share_offered": policies[cost_share, rule].mean(),
            "value": estimate.value,
            "standard_error": estimate.standard_error,
        }
        if truth is not None:
            worth = expected_reward(np.eye(5), "cash", cost_share, 1.0)[truth]
            row["true_value"] = float((policies[cost_share, rule] * worth).mean())
        rows.append(row)
    for cost_share in COST_SHARES:
        for rule, against in PAIRS:
            estimate = mean_estimate(
                earned[cost_share, rule] - earned[cost_share, against], clusters=clusters
            )
            gaps.append(
                {
                    "cost_share": cost_share,
                    "rule": rule,
                    "against": against,
                    "difference": estimate.value,
                    "standard_error": estimate.standard_error,
                    "z": estimate.z,
                }
            )
    return pd.DataFrame(rows), pd.DataFrame(gaps)


PAIRS = (
    ("strata", "everyone"),
    ("strata", "nobody"),
    ("strata", "uplift, average cost"),
    ("strata, budget", "uplift, budget"),
    ("strata, budget", "response, budget"),
    ("strata, budget", "anyone, budget"),
)
"""Pairs of rules that are compared."""


def rules_of(
    predicted: LogNuisances, fold: NDArray[np.int64], cost_share: float
) -> Mapping[str, NDArray[np.float64]]:
    """Decide whom each rule offers an incentive, from predictions for rows that it has not seen.

    Parameters
    ----------
    predicted : LogNuisances
    fold : ndarray of shape (n,), int
        Fold of each row; a budget holds within each fold.
    cost_share : float

    Returns
    -------
    dict of str to ndarray of shape (n,), float64
        Probability of an offer to each person, by rule.
    """
    uplift = predicted.converted_treated - predicted.converted_untreated
    response = predicted.converted_treated
    reward = expected_reward(predicted.predicted_strata(), "cash", cost_share, 1.0)
    n = len(fold)

    def best(score: NDArray[np.float64]) -> NDArray[np.float64]:
        treat = np.zeros(n)
        for k in np.unique(fold):
            treat[fold == k] = allocate(score[fold == k], BUDGET)
        return treat

    return {
        "nobody": np.zeros(n),
        "everyone": np.ones(n),
        "strata": (reward > 0).astype(np.float64),
        "uplift, average cost": (uplift > cost_share * response.mean()).astype(np.float64),
        "strata, budget": best(reward),
        "uplift, budget": best(uplift),
        "response, budget": best(response),
        "anyone, budget": np.full(n, BUDGET),
    }


def effects_by_amount(sample: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Estimate results learnt and money paid by amount offered, and when a larger amount is worth it.

    Amounts are compared within areas.

    Returns
    -------
    dict of str to DataFrame
        Key ``doses`` has a row for each group of amounts (kwacha). Key ``steps`` goes from each group to the
        next, with the payments that one more result costs. Key ``net`` has the value of an offer against
        none, and of the last step, by the value of a result (kwacha per person).
    """
    group = np.searchsorted(AMOUNT_GROUPS, sample["amount"].to_numpy())
    labels = ["none"] + [f"{low + 10:.0f}-{high:.0f}" for low, high in pairwise(AMOUNT_GROUPS)]
    village, area = sample["village"].to_numpy(), sample["area"]
    _, learnt = arm_scores(sample["learnt"], group, block=area)
    _, paid = arm_scores(sample["learnt"] * sample["amount"], group, block=area)
    rows, steps, net = [], [], []
    for k, label in enumerate(labels):
        mean = mean_estimate(learnt[:, k], clusters=village)
        gained = mean_estimate(learnt[:, k] - learnt[:, 0], clusters=village)
        payment = mean_estimate(paid[:, k], clusters=village)
        rows.append(
            {
                "amount": label,
                "rows": int((group == k).sum()),
                "mean_amount": sample.loc[group == k, "amount"].mean(),
                "learnt": mean.value,
                "learnt_se": mean.standard_error,
                "coupon_buyers": gained.value,
                "coupon_buyers_se": gained.standard_error,
                "payment": payment.value,
                "payment_se": payment.standard_error,
            }
        )
        for worth in VALUES:
            gain = mean_estimate(worth * (learnt[:, k] - learnt[:, 0]) - paid[:, k], clusters=village)
            last = worth * (learnt[:, k] - learnt[:, k - 1]) - (paid[:, k] - paid[:, k - 1])
            step = mean_estimate(last if k else np.zeros(len(sample)), clusters=village)
            net.append(
                {
                    "value_of_result": worth,
                    "amount": label,
                    "net": gain.value,
                    "standard_error": gain.standard_error,
                    "last_step": step.value,
                    "last_step_se": step.standard_error,
                }
            )
        if k:
            extra_learnt, extra_paid = learnt[:, k] - learnt[:, k - 1], paid[:, k] - paid[:, k - 1]
            more = mean_estimate(extra_learnt, clusters=village)
            spent = mean_estimate(extra_paid, clusters=village)
            price = spent.value / more.value
            # A ratio of means, linearised; where more_learnt is within two errors of 0 it says little.
            of_price = mean_estimate((extra_paid - price * extra_learnt) / more.value, clusters=village)
            steps.append(
                {
                    "from": labels[k - 1],
                    "to": label,
                    "more_learnt": more.value,
                    "more_learnt_se": more.standard_error,
                    "more_paid": spent.value,
                    "more_paid_se": spent.standard_error,
                    "kwacha_a_result": price,
                    "kwacha_a_result_se": of_price.standard_error,
                }
            )
    return {"doses": pd.DataFrame(rows), "steps": pd.DataFrame(steps), "net": pd.DataFrame(net)}
