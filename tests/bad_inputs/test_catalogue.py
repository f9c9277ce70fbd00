"""Bad inputs, one a line: each is refused by an error of the library that says what it expected and found."""

import re
import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.svm import LinearSVC

import cfmtl_lib as cf
from cfmtl_lib import value
from cfmtl_lib.estimators.pair_features import PairEncoder
from cfmtl_lib.experiments.evaluation import monte_carlo
from cfmtl_lib.policy import treatable
from cfmtl_lib.strata import draw_strata, observe

N = 120
STUDY = cf.simulated_features(N, seed=1)
LOG, TRUTH, P = STUDY.log, STUDY.true_nuisances, STUDY.strata_probability
TREAT = P[:, 3] > 0.15
SCORE = P[:, 3] - 0.1
HALF = np.full(N, 0.5)
LABELS = [f"row {k}" for k in range(N)]
NAMED = cf.IncentiveLog(
    pd.DataFrame(LOG.x, index=LABELS, columns=list("abcde")), LOG.t, LOG.c, LOG.y, LOG.propensity
)
CLUSTERED = cf.IncentiveLog(LOG.x, LOG.t, LOG.c, LOG.y, LOG.propensity, cluster=np.arange(N) // 2)
PAIRS = cf.simulated(n_users=20, n_items=20, n_pairs=200).train
LR = LogisticRegression()
OTHER_ROWS = pd.Series(HALF, index=np.arange(N) + 1)
SHUFFLED = pd.Series(HALF, index=np.roll(np.arange(N), 1))
MASKED = np.ma.masked_array(HALF, mask=np.arange(N) == 3)
ARMS = cf.allocate_arms(np.column_stack([HALF, SCORE + 0.5]), budget=1.0)


def at(row, bad, values=HALF):
    return [bad if k == row else v for k, v in enumerate(values)]


def valued(treat=TREAT, log=LOG, nuisances=TRUTH, **options):
    return cf.policy_value(treat, log, nuisances, **{"cost": 0.4} | options)


def curve(score=SCORE, **options):
    return cf.budget_curve(score, LOG, TRUTH, **{"cost": 0.4, "n_bootstrap": 50, "n_jobs": 1} | options)


def bounded(**options):
    given = {"cost": 0.4, "outcome_strength": 0.1, "treatment_strength": 0.1} | options
    return value.confounding_bound(TREAT, LOG, TRUTH, **given)


def guaranteed(log=LOG, nuisances=TRUTH, **options):
    return value.reward_lower_bound(TREAT, log, nuisances, **{"cost": 0.4, "least_propensity": 0.1} | options)


def fitted(name, log=LOG, **options):
    return getattr(cf, name)(**options).fit(log)


def compared(**options):
    given = {"models": {"Naive": cf.Naive(outcome=LR)}, "cost": 0.4, "folds": 2} | options
    return cf.compare_models(LOG, nuisances=TRUTH, **given)


QUICK = cf.FeatureConfig(
    hidden=(4,), n_networks=1, fit=cf.FitConfig(max_epochs=1, patience=1, validation_share=0.2)
)
ALL_HELD_OUT = cf.FeatureConfig(n_networks=1, fit=cf.FitConfig(validation_share=0.999))
ONE_CLUSTER = cf.IncentiveLog(LOG.x, LOG.t, LOG.c, LOG.y, cluster=np.zeros(N, dtype=int))
TWO_ROWS = LOG.take(np.array([LOG.t.argmin(), LOG.t.argmax()]))
WITH_NUMBERS = cf.IncentiveLog(
    (PAIRS.x, np.ones((len(PAIRS), 1))), PAIRS.t, PAIRS.c, PAIRS.y, n_users=20, n_items=20
)


class NoProbabilities(LogisticRegression):
    def predict_proba(self, x):
        return np.full((len(x), 2), np.nan)


class OtherClasses(LogisticRegression):
    def fit(self, x, y):
        return super().fit(x, np.where(y == 1, 2, 1))


INDEX = "treat: .*integers"
ROW_3 = "first at row 3"

CATALOGUE = {
    # Policies
    "policy of another length": (
        lambda: valued(TREAT[:5]),
        r"treat: expected shape \(120,\).*found shape \(5,\)",
    ),
    "policy of two columns": (lambda: valued(np.column_stack([TREAT, TREAT])), r"treat: .*shape \(120, 2\)"),
    "policy of one number": (lambda: valued(1.0), "treat: .*one float"),
    "policy None": (lambda: valued(None), "treat: .*NoneType"),
    "policy of texts": (lambda: valued(["yes"] * N), "treat: .*<U3"),
    "policy of 0/1 integers": (lambda: valued(TREAT.astype(int)), INDEX),
    "policy of small integers": (lambda: valued(LOG.t), INDEX),
    "policy of indices of rows": (lambda: valued(np.arange(N)), INDEX),
    "arm indices as a policy": (lambda: valued(ARMS), "indices of incentives.*arms >= 0"),
    "some arm indices as a policy": (lambda: valued(ARMS[:N]), "indices of incentives"),
    "plain arm indices as a policy": (lambda: valued(np.asarray(ARMS)), INDEX),
    "arm indices as floats": (lambda: valued(np.where(TREAT, -1.0, 1.0)), "treat: .*found -1.0"),
    "policy with NaN": (lambda: valued(at(3, np.nan)), f"treat: .*nan.*{ROW_3}"),
    "policy with None": (lambda: valued(at(3, None, TREAT.tolist())), "treat: .*None among objects"),
    "policy above 1": (lambda: valued(at(3, 1.2)), f"treat: .*found 1.2.*{ROW_3}.*allocate"),
    "policy of scores": (lambda: valued(SCORE), r"treat: .*found -.*allocate"),
    "masked policy": (lambda: valued(MASKED), f"treat: .*masked.*{ROW_3}"),
    "complex policy": (lambda: valued(HALF + 0j), "treat: .*complex128"),
    "policy of dates": (lambda: valued(pd.date_range("2024", periods=N)), "treat: .*datetime64"),
    "policy as a set": (lambda: valued({True, False}), "treat: .*found"),
    "policy of other rows": (lambda: valued(OTHER_ROWS), "treat: .*labels of the log's rows"),
    "policy of a log without labels, shuffled": (lambda: valued(SHUFFLED), "treat: .*labels"),
    "policy by numbers of a log with names": (lambda: valued(pd.Series(HALF), NAMED), "treat: .*'row 0'"),
    "other policy": (
        lambda: cf.policy_value_difference(TREAT, LOG.t, LOG, TRUTH, cost=0.4),
        "other: .*integers",
    ),
    "policy of the treated": (lambda: value.treated_value(LOG.t, LOG, TRUTH, cost=0.4), INDEX),
    "policy of a bound": (lambda: guaranteed(nuisances=TRUTH, n_policies=0), "n_policies: .*>= 1, found 0"),
    "policy in counts": (lambda: cf.count_outcomes([0, 1], [3, 4], "cash", 0.4), INDEX),
    "target indices in counts": (lambda: cf.count_outcomes([3, 1], [3, 4], "cash", 0.4), INDEX),
    "policy in counts of other rows": (
        lambda: cf.count_outcomes(pd.Series([True, False], index=[1, 0]), [3, 4], "cash", 0.4),
        "treat: .*labels",
    ),
    "probabilities in counts": (
        lambda: cf.count_outcomes([0.5, 1.0], [3, 4], "cash", 0.4),
        "treat: .*found 0.5",
    ),
    "policy of a true value": (lambda: STUDY.true_value(LOG.t, "coupon", 0.4), INDEX),
    # Log and nuisances
    "table in place of a log": (lambda: valued(log=pd.DataFrame(LOG.x)), "log: expected an IncentiveLog"),
    "None in place of a log": (lambda: cf.strata_shares(None), "log: .*found None"),
    "nuisances of other kind": (lambda: valued(nuisances=HALF), "nuisances: expected LogNuisances"),
    "nuisances of other rows": (
        lambda: valued(nuisances=cf.LogNuisances(*[HALF[:5]] * 5)),
        "nuisances: expected 120 rows.*found 5",
    ),
    "nuisances in another order": (
        lambda: valued(log=NAMED, nuisances=cf.LogNuisances(*[pd.Series(HALF, index=LABELS[::-1])] * 5)),
        "nuisances: .*order",
    ),
    "propensity above 1": (
        lambda: cf.LogNuisances(at(3, 1.5), *[HALF] * 4),
        rf"propensity: .*\[0, 1\].*{ROW_3}",
    ),
    "propensity of 0": (
        lambda: valued(nuisances=cf.LogNuisances(at(3, 0.0), *[HALF] * 4), clip=0),
        "overlap",
    ),
    "propensity NaN": (lambda: cf.LogNuisances(at(3, np.nan), *[HALF] * 4), f"propensity: .*nan.*{ROW_3}"),
    "mean above 1": (
        lambda: cf.LogNuisances(HALF, at(3, 1.1), *[HALF] * 3),
        rf"converted_treated: .*{ROW_3}",
    ),
    "mean below 0": (lambda: cf.LogNuisances(*[HALF] * 4, at(3, -0.1)), rf"collected_and.*{ROW_3}"),
    "mean of texts": (lambda: cf.LogNuisances(HALF, ["a"] * N, *[HALF] * 3), "converted_treated: .*'a'"),
    "mean of another length": (lambda: cf.LogNuisances(HALF, HALF[:3], *[HALF] * 3), r"shape \(3,\)"),
    "mean of other rows": (
        lambda: cf.LogNuisances(HALF, OTHER_ROWS, *[HALF] * 3),
        "expected an array.*label 1",
    ),
    "masked mean": (lambda: cf.LogNuisances(HALF, MASKED, *[HALF] * 3), "masked"),
    "means without one": (
        lambda: cf.LogNuisances.from_means(HALF, {}),
        "means: .*found none of converted_treated",
    ),
    "known as a text": (lambda: cf.LogNuisances(*[HALF] * 5, "no"), "propensity_is_known: .*'no'"),
    "clip in percent": (lambda: valued(clip=5), r"clip: .*\[0, 0.5\), found 5"),
    "clip of a half": (lambda: valued(clip=0.5), r"clip: .*found 0.5"),
    "clip True": (lambda: valued(clip=True), "clip: .*found True"),
    "clip below 0": (lambda: valued(clip=-0.01), "clip: .*found -0.01"),
    "bounds of clipping exchanged": (lambda: TRUTH.clipped(0.9, 0.1), "high: .*found 0.1"),
    # Costs, values, scenarios
    "cost True": (lambda: valued(cost=True), "cost: expected a finite number >= 0, found True"),
    "cost as text": (lambda: valued(cost="0.4"), "cost: .*found '0.4'"),
    "cost None": (lambda: valued(cost=None), "cost: .*found None"),
    "cost below 0": (lambda: valued(cost=-0.1), "cost: .*found -0.1"),
    "cost NaN": (lambda: valued(cost=float("nan")), "cost: .*found nan"),
    "cost infinite": (lambda: valued(cost=np.inf), "cost: .*found inf"),
    "cost complex": (lambda: valued(cost=0.4 + 0j), "cost: .*found"),
    "cost NaN of decimal": (lambda: valued(cost=Decimal("NaN")), "cost: .*found Decimal"),
    "cost beyond all numbers": (lambda: valued(cost=10**400), "cost: .*found"),
    "cost a list of one": (lambda: valued(cost=[0.4]), r"cost: .*shape \(120,\).*shape \(1,\)"),
    "cost a dictionary": (lambda: valued(cost={"a": 0.4}), "cost: .*dict"),
    "costs of flags": (lambda: valued(cost=TREAT), "cost: expected numbers, found True and False"),
    "costs with one below 0": (lambda: valued(cost=at(3, -1.0)), f"cost: .*found -1.0.*{ROW_3}"),
    "costs with None": (lambda: valued(cost=at(3, None)), f"cost: .*{ROW_3}"),
    "costs of texts": (lambda: valued(cost=["0.4"] * N), "cost: expected numbers, found '0.4'"),
    "costs of other rows": (lambda: valued(cost=OTHER_ROWS), "cost: .*labels"),
    "masked costs": (lambda: valued(cost=MASKED), "cost: .*masked"),
    "costs that overflow": (lambda: valued(cost=np.full(N, 1e200)), "cost: .*1e\\+200"),
    "value of a conversion below 0": (lambda: valued(conversion_value=-1.0), "conversion_value: .*-1.0"),
    "value of a conversion as text": (
        lambda: valued(conversion_value="10 EUR"),
        "conversion_value: .*'10 EUR'",
    ),
    "values of conversions of other rows": (
        lambda: valued(conversion_value=OTHER_ROWS),
        "conversion_value: .*labels",
    ),
    "scenario misspelt": (lambda: valued(scenario="coupons"), "scenario: expected one of 'coupon', 'cash'"),
    "scenario None": (lambda: valued(scenario=None), "scenario: .*found"),
    "scenario a list": (lambda: cf.stratum_rewards(["coupon"], 0.4), "scenario: .*found"),
    "cost of a prediction": (
        lambda: fitted("Naive", outcome=LR).predict_reward(LOG.x, "coupon", "0.4"),
        "cost: .*'0.4'",
    ),
    # Levels, clusters, groups
    "level in percent": (lambda: valued(level=95), "level: .*found 95. Pass 0.95 for 95 %"),
    "level of 1": (lambda: valued(level=1.0), "level: .*found 1.0"),
    "level None": (lambda: valued(level=None), "level: .*found None"),
    "level of shares": (lambda: cf.strata_shares(LOG, TRUTH, level="0.95"), "level: .*'0.95'"),
    "level of a curve": (lambda: curve(level=True), "level: .*found True"),
    "clusters of another length": (lambda: valued(clusters=[1, 2]), r"clusters: .*shape \(2,\)"),
    "clusters with a missing label": (lambda: valued(clusters=at(3, None)), f"clusters: .*{ROW_3}"),
    "clusters of other rows": (lambda: valued(clusters=OTHER_ROWS), "clusters: .*labels"),
    "clusters of two columns": (lambda: valued(clusters=np.zeros((N, 2))), r"clusters: .*\(120, 2\)"),
    "one cluster": (lambda: valued(clusters=["a"] * N), "clusters: expected at least two.*found one"),
    "masked clusters": (lambda: valued(clusters=MASKED), "clusters: .*masked"),
    "groups of other rows": (
        lambda: value.check_implications(LOG, TRUTH, groups=OTHER_ROWS),
        "groups: .*labels",
    ),
    "groups with NaN": (
        lambda: value.check_implications(LOG, TRUTH, groups=at(3, np.nan)),
        f"groups: .*{ROW_3}",
    ),
    "small groups": (lambda: value.strata_bounds(LOG, TRUTH, groups=LOG.t), "groups: .*100 rows"),
    "number of groups": (lambda: value.check_implications(LOG, TRUTH, n_groups=2.0), "n_groups: .*found 2.0"),
    "clusters of a finite-sample bound": (lambda: guaranteed(log=CLUSTERED), "log: .*independent.*clusters"),
    # Budgets
    "budget in percent": (
        lambda: cf.allocate(SCORE, 40),
        r"budget: .*share in \[0, 1\], found 40. Pass 0.4 for 40 %",
    ),
    "budget True": (lambda: cf.allocate(SCORE, True), "budget: .*found True"),
    "budget as text": (lambda: cf.allocate(SCORE, "40 %"), "budget: .*found '40 %'"),
    "budget NaN": (lambda: cf.allocate(SCORE, np.nan), "budget: .*found nan"),
    "budget below 0": (lambda: cf.threshold_policy(SCORE, -0.1), "budget: .*found -0.1"),
    "two budgets": (lambda: cf.allocate(SCORE, 0.4, number=3), "budget: .*found budget and number"),
    "no budget": (lambda: cf.allocate_arms([[0.1]]), "budget: .*found none"),
    "number of rows as float": (lambda: cf.allocate(SCORE, number=3.0), "number: .*found 3.0. Pass an int"),
    "number of rows True": (lambda: cf.allocate(SCORE, number=True), "number: .*found True"),
    "money as text": (lambda: cf.allocate(SCORE, money="5", spend=HALF), "money: .*found '5'"),
    "money without spend": (lambda: cf.allocate(SCORE, money=5), "spend: expected given with money"),
    "spend without money": (lambda: cf.allocate(SCORE, 0.4, spend=HALF), "spend: expected given with money"),
    "spend of other rows": (
        lambda: cf.allocate(pd.Series(SCORE), money=5, spend=OTHER_ROWS),
        "spend: .*labels",
    ),
    "spend of another length": (lambda: cf.allocate(SCORE, money=5, spend=[1.0]), r"spend: .*shape \(1,\)"),
    "spend below 0": (lambda: cf.allocate(SCORE, money=5, spend=at(3, -1.0)), f"spend: .*-1.0.*{ROW_3}"),
    "spend of arms below 0": (
        lambda: cf.allocate_arms([[0.1], [0.2]], money=5, spend=[[0.1], [-0.2]]),
        "spend: .*-0.2.*row 1",
    ),
    "reward with NaN": (lambda: cf.allocate(at(3, np.nan), 0.4), f"reward: .*nan.*{ROW_3}"),
    "reward a policy": (lambda: cf.allocate(TREAT, 0.4), "reward: .*True and False"),
    "reward of texts": (lambda: cf.allocate(["a"], 0.4), "reward: .*'a'"),
    "reward of two columns": (lambda: cf.allocate(P, 0.4), r"reward: .*\(120, 5\)"),
    "reward one number": (lambda: cf.allocate(0.4, 0.4), "reward: .*found 0.4"),
    "rewards of arms in one column": (lambda: cf.allocate_arms(SCORE, 0.4), r"reward: .*\(n, k\).*\(120,\)"),
    "rewards of arms with NaN": (lambda: cf.allocate_arms([[0.1, np.nan]], 0.4), "reward: .*nan in column 1"),
    "ties": (lambda: cf.allocate(SCORE, 0.4, ties="no"), "ties: expected one of 'random', 'first'"),
    "seed of ties": (lambda: cf.allocate(SCORE, 0.4, seed=None), "seed: .*found None"),
    "pairs of a share": (lambda: treatable(10.5, 0.4), "n_pairs: .*found 10.5"),
    # Strata
    "probabilities that do not sum to 1": (lambda: cf.expected_reward(P / 2, "coupon", 0.4), "sum to 1"),
    "probabilities of four strata": (lambda: cf.expected_reward(P[:, :4], "coupon", 0.4), r"\(n, 5\)"),
    "probabilities by other names": (
        lambda: cf.expected_reward(pd.DataFrame(P, columns=list("abcde")), "coupon", 0.4),
        "columns never buyer.*found columns a, b",
    ),
    "stratum 5": (lambda: cf.count_outcomes([True], [5], "cash", 0.4), "stratum: .*found 5"),
    "stratum as float": (lambda: cf.count_outcomes([True], [3.0], "cash", 0.4), "stratum: .*float64"),
    "ragged strata": (lambda: cf.count_outcomes([True], [[1], [1, 2]], "cash", 0.4), "stratum: .*found none"),
    "treatment of strata": (lambda: observe([3, 3], [0, 2]), "treated: expected 0 or 1, found 2"),
    "probabilities to draw from": (lambda: draw_strata([[0.5] * 5], np.random.default_rng(0)), "sum to 1"),
    "shares of impossible means": (lambda: value.share_ranges([0.5, 0.5, np.nan, 0.1]), "means: .*nan"),
    "shares of three means": (lambda: value.share_ranges([0.5, 0.5, 0.1]), r"means: .*\(3,\)"),
    "exclusion as a text": (lambda: value.share_ranges([0.5] * 4, exclusion="no"), "exclusion: .*'no'"),
    # Curves and diagnostics
    "scores with infinity": (lambda: curve(at(3, np.inf)), f"score: .*inf.*{ROW_3}"),
    "scores of other rows": (lambda: curve(OTHER_ROWS), "score: .*labels"),
    "other scores": (
        lambda: cf.budget_curve_difference(SCORE, SCORE[:5], LOG, TRUTH, cost=0.4, n_bootstrap=50, n_jobs=1),
        r"other: .*\(5,\)",
    ),
    "replicates as float": (lambda: curve(n_bootstrap=100.0), "n_bootstrap: .*found 100.0"),
    "replicates without end": (lambda: curve(n_bootstrap=2**70), "n_bootstrap: .*from 50 to 100000"),
    "budgets that fall": (lambda: curve(budgets=[0.5, 0.2]), "budgets: .*increasing"),
    "budgets of texts": (lambda: curve(budgets=["0", "1"]), "budgets: expected numbers"),
    "axis of a curve": (lambda: curve(by="euro"), "by: expected one of 'share', 'spend'"),
    "stop of a curve": (lambda: curve(only_positive="no"), "only_positive: .*'no'"),
    "no jobs": (lambda: curve(n_jobs=0), "n_jobs: .*found 0"),
    "bins as float": (lambda: value.propensity_calibration(LOG, TRUTH, n_bins=5.0), "n_bins: .*found 5.0"),
    "more bins than rows": (
        lambda: value.propensity_calibration(LOG, TRUTH, n_bins=N + 1),
        "n_bins: .*from 1 to",
    ),
    "outcome of a calibration": (
        lambda: value.calibration_curve(HALF, HALF * 6),
        r"happened: .*\[0, 1\].*3.0",
    ),
    "probability of a calibration": (lambda: value.calibration_curve(HALF * 6, HALF), "probability: .*3.0"),
    "rows of a calibration": (
        lambda: value.calibration_curve(pd.Series(HALF), OTHER_ROWS),
        "happened: .*labels",
    ),
    "extreme propensities": (lambda: value.overlap(LOG, TRUTH, extreme=5), "extreme: .*found 5"),
    "covariates as an array": (lambda: value.balance(LOG, TRUTH, LOG.x), "covariates: expected a DataFrame"),
    "covariates of other rows": (
        lambda: value.balance(LOG, TRUTH, pd.DataFrame({"a": OTHER_ROWS})),
        "column a: .*labels",
    ),
    "covariates of texts": (
        lambda: value.balance(LOG, TRUTH, pd.DataFrame({"city": ["Oslo"] * N})),
        "column city: expected numbers, found 'Oslo'",
    ),
    "negative control with NaN": (
        lambda: value.negative_control(at(3, np.nan), LOG, TRUTH),
        f"outcome: .*nan.*{ROW_3}",
    ),
    "one mean of a negative control": (
        lambda: value.negative_control(SCORE, LOG, TRUTH, means=[HALF]),
        "means: expected two",
    ),
    "outcome of the treated": (
        lambda: value.treated_effect(["a"] * N, HALF, LOG, TRUTH),
        "outcome: expected numbers",
    ),
    "arms with a missing label": (lambda: value.arm_means([1, 0, 1], ["a", None, "a"]), "arm: .*row 1"),
    "reference that is no arm": (
        lambda: value.arm_means([1, 0, 1, 0], ["a", "a", "b", "b"], reference="c"),
        "reference: .*'c'",
    ),
    "arms of other rows": (
        lambda: value.arm_means(
            pd.Series([1, 0, 1, 0]), pd.Series(list("aabb"), index=[3, 2, 1, 0] * 1).rename({0: 9})
        ),
        "arm: .*labels",
    ),
    "thinning of other rows": (
        lambda: value.complementary_thinning(pd.Series(HALF), OTHER_ROWS),
        "keep_untreated: .*labels",
    ),
    "thinning to nothing": (
        lambda: value.complementary_thinning(HALF, HALF * 0),
        r"keep_untreated: .*\(0, 1\]",
    ),
    "strength in percent": (lambda: bounded(outcome_strength=10), "outcome_strength: .*found 10"),
    "strength of 1": (lambda: bounded(treatment_strength=1.0), "treatment_strength: .*found 1.0"),
    "correlation": (lambda: bounded(rho="1"), "rho: .*found '1'"),
    "confidence in percent": (lambda: guaranteed(confidence=95), "confidence: .*found 95"),
    "least propensity": (lambda: guaranteed(least_propensity=0.0), "least_propensity: .*found 0.0"),
    # Learners and cross-fitting
    "regressor as a classifier": (
        lambda: cf.crossfit(LOG, outcome=LinearRegression()),
        r"outcome: expected a classifier.*found LinearRegression\(\)",
    ),
    "regressor as a propensity": (
        lambda: cf.crossfit(LOG, outcome=LR, propensity=LinearRegression()),
        "propensity: expected a classifier",
    ),
    "classifier without probabilities": (
        lambda: cf.crossfit(LOG, outcome=LinearSVC()),
        "outcome: .*predict_proba",
    ),
    "class in place of a classifier": (
        lambda: cf.crossfit(LOG, outcome=LogisticRegression),
        "outcome: .*the class LogisticRegression",
    ),
    "text in place of a classifier": (lambda: cf.crossfit(LOG, outcome="logistic"), "outcome: .*'logistic'"),
    "classifier that predicts NaN": (
        lambda: cf.crossfit(LOG, outcome=NoProbabilities(), folds=2),
        "converted_treated, fold 0: .*NaN",
    ),
    "classifier of other classes": (
        lambda: cf.crossfit(LOG, outcome=OtherClasses(), folds=2),
        r"fold 0: .*classes \[1, 2\]",
    ),
    "features of texts": (
        lambda: cf.crossfit(LOG, outcome=LR, features=np.full((N, 1), "a"), folds=2),
        "fold 0: .*LogisticRegression can be fitted to",
    ),
    "features with NaN": (
        lambda: cf.crossfit(LOG, outcome=LR, features=np.full((N, 1), np.nan), folds=2),
        "fold 0: .*found ValueError: .*NaN",
    ),
    "features of another length": (
        lambda: cf.crossfit(LOG, outcome=LR, features=LOG.x[:5]),
        "features: .*5 rows",
    ),
    "features of other rows": (
        lambda: cf.crossfit(NAMED, outcome=LR, features=pd.DataFrame(LOG.x)),
        "features: .*'row 0'",
    ),
    "known propensity of 1": (
        lambda: cf.crossfit(LOG, outcome=LR, propensity=at(3, 1.0)),
        f"propensity: .*{ROW_3}",
    ),
    "known propensity of other rows": (lambda: cf.crossfit(LOG, outcome=LR, propensity=OTHER_ROWS), "labels"),
    "folds as float": (lambda: cf.crossfit(LOG, outcome=LR, folds=5.0), "folds: .*found 5.0. Pass an int"),
    "folds True": (lambda: cf.crossfit(LOG, outcome=LR, folds=True), "folds: .*found True"),
    "no folds": (lambda: cf.crossfit(LOG, outcome=LR, folds=0), "folds: .*found 0"),
    "folds of other rows": (lambda: cf.crossfit(LOG, outcome=LR, folds=OTHER_ROWS), "folds: .*labels"),
    "folds of floats": (lambda: cf.crossfit(LOG, outcome=LR, folds=HALF), "folds: .*float64"),
    "progress as text": (lambda: cf.crossfit(LOG, outcome=LR, progress="no"), "progress: .*'no'"),
    # Estimators and their settings
    "regressor of an estimator": (
        lambda: fitted("CFOR", outcome=LinearRegression()),
        "outcome: expected a classifier",
    ),
    "classifier as a regressor": (
        lambda: fitted("DR", outcome=LR, pseudo_outcome=LR),
        "pseudo_outcome: expected a reg",
    ),
    "folds of an estimator": (lambda: fitted("DR", outcome=LR, folds=2.5), "folds: .*found 2.5"),
    "one fold of an estimator": (lambda: fitted("DR", outcome=LR, folds=1), "folds: .*>= 2, found 1"),
    "clip of an estimator": (
        lambda: fitted("IPS", outcome=LR, propensity_clip=(0, 1)),
        "propensity_clip: .*0 < low",
    ),
    "clip of one number": (
        lambda: fitted("IPS", outcome=LR, propensity_clip=0.05),
        "propensity_clip: .*found 0.05",
    ),
    "form of the cells": (
        lambda: fitted("CFOR", outcome=LR, cell_form="both"),
        "cell_form: expected one of 'joint'",
    ),
    "settings of features for pairs": (
        lambda: fitted("OR", PAIRS, config=cf.FeatureConfig()),
        "config: .*FitConfig",
    ),
    "settings as a dictionary": (
        lambda: fitted("CFMTL", config={}),
        "config: expected BoostedConfig .* or FeatureConfig .*found dict",
    ),
    "weights as a list": (lambda: fitted("CFMTL", weights=[1] * 6), "weights: expected CellWeights"),
    "weight below 0": (
        lambda: fitted("CFMTL", weights=cf.CellWeights(-1, 1, 1, 1, 1, 1)),
        "weights: .*found -1",
    ),
    "floor of 1": (lambda: fitted("CFMTL", propensity_floor=1.0), "propensity_floor: .*found 1.0"),
    "weight NaN": (lambda: fitted("CFMTL", propensity_weight=np.nan), "propensity_weight: .*found nan"),
    "seed None of an estimator": (lambda: fitted("CFMTL", seed=None), "seed: .*found None"),
    "seed a state": (
        lambda: fitted("CFMTL", seed=np.random.RandomState(0)),
        "seed: .*RandomState.*rng.integers",
    ),
    "frozen as text": (lambda: fitted("CFMTLv1", frozen="yes"), "frozen: .*'yes'"),
    "device": (lambda: fitted("CFMTL", device="gpu"), "device: expected one of 'auto'"),
    "epochs as float": (lambda: cf.FitConfig(max_epochs=10.0), "FitConfig.max_epochs: .*found 10.0"),
    "patience True": (lambda: cf.FitConfig(patience=True), "FitConfig.patience: .*found True"),
    "learning rate as text": (lambda: cf.FitConfig(learning_rate="0.1"), "FitConfig.learning_rate: .*'0.1'"),
    "loss": (lambda: cf.FitConfig(loss="hinge"), "loss: expected one of 'squared_error'"),
    "validation share in percent": (
        lambda: cf.FitConfig(validation_share=20),
        "validation_share: .*found 20",
    ),
    "width of a layer": (lambda: cf.FeatureConfig(hidden=(64.5,)), "FeatureConfig.hidden: .*found 64.5"),
    "layers as a number": (lambda: cf.FeatureConfig(hidden=64), "FeatureConfig.hidden: .*found 64"),
    "number of networks": (lambda: cf.FeatureConfig(n_networks="4"), "FeatureConfig.n_networks: .*'4'"),
    # Learners of effects and entire-space models
    "penalty below 0": (lambda: fitted("CFR", penalty=-1), "penalty: .*>= 0|penalty: .*found -1"),
    "penalty as text": (lambda: fitted("BNN", penalty="0.1"), "penalty: .*found '0.1'"),
    "penalty beyond single precision": (lambda: fitted("CFR", penalty=1e99), "penalty: .*1e.06.*found 1e.99"),
    "weight of a propensity": (
        lambda: fitted("DragonNet", propensity_weight=None),
        "propensity_weight: .*None",
    ),
    "targeted weight True": (lambda: fitted("DragonNet", targeted_weight=True), "targeted_weight: .*True"),
    "weight of a cross network": (lambda: fitted("DESCN", cross_weight=np.inf), "cross_weight: .*found inf"),
    "weight of a risk": (lambda: fitted("ESCM2", risk_weight=np.nan), "risk_weight: .*found nan"),
    "risk": (lambda: fitted("ESCM2", risk="mrdr"), "risk: expected one of 'ipw', 'dr', found 'mrdr'"),
    "floor of collecting": (lambda: fitted("MultiIPW", collect_floor=0), "collect_floor: .*found 0"),
    "floor in percent": (lambda: fitted("ESCM2", collect_floor=5), "collect_floor: .*found 5"),
    "floor that no weight survives": (
        lambda: fitted("MultiIPW", collect_floor=1e-300),
        "collect_floor: .*e-300",
    ),
    "experts": (lambda: fitted("MMoE", n_experts=0), "n_experts: .*found 0"),
    "width as float": (lambda: fitted("TARNet", width=8.0), "width: .*found 8.0. Pass an int"),
    "settings of pairs for features": (
        lambda: fitted("TARNet", config=cf.FitConfig()),
        "config: .*FeatureConfig",
    ),
    "settings of features for ids": (
        lambda: fitted("ESMM", PAIRS, config=QUICK),
        "config: expected FitConfig",
    ),
    "device of a learner": (lambda: fitted("PerfectMatch", device="gpu"), "device: expected one of 'auto'"),
    "arms of BART": (lambda: fitted("BART", arms="both"), "arms: expected one of 'separate', 'joint'"),
    "regressor of the X-learner": (lambda: fitted("XLearner", effect=LR), "effect: expected a regressor"),
    "classifier of the DR-learner": (
        lambda: fitted("DRLearner", propensity=LinearRegression()),
        "propensity: expected a classifier",
    ),
    "sample without an arm": (
        lambda: fitted("XLearner", LOG.take(np.argsort(LOG.t)[-90:]), max_rows=2, seed=0),
        "max_rows: expected enough rows for a sample with both arms, found 2 of 90 rows",
    ),
    "folds of two rows": (
        lambda: fitted("DRLearner", TWO_ROWS, folds=2),
        "folds: expected at most 1, the number of rows of the larger arm, found 2",
    ),
    "one cluster of networks": (
        lambda: fitted("TARNet", ONE_CLUSTER, config=QUICK),
        "validation_share: .*clusters.*every cluster",
    ),
    "one cluster of trees": (
        lambda: fitted("CFMTL", ONE_CLUSTER),
        "validation_share: .*found 0.2, .*cluster",
    ),
    "rows all held out": (lambda: fitted("ESMM", config=ALL_HELD_OUT), "validation_share: .*every row"),
    "rows all held out of a propensity": (
        lambda: fitted("PerfectMatch", config=ALL_HELD_OUT),
        "validation_share: .*all 120 rows",
    ),
    "folds of encodings": (
        lambda: PairEncoder(folds=1).fit(PAIRS),
        "folds: expected a whole number from 2 to 100, found 1",
    ),
    "prior of encodings": (lambda: PairEncoder(prior=1e-300).fit(PAIRS), "prior: .*1e-06.*found 1e-300"),
    "features to encode": (lambda: PairEncoder().fit(LOG), "x: .*integer user and item ids"),
    "negative id beside numbers": (
        lambda: WITH_NUMBERS.encoder.matrix(([[0, 1], [3, -1]], np.ones((2, 1)))),
        r"x: expected ids >= 0, found -1 \(first at row 1\)",
    ),
    "models as a list": (lambda: compared(models=[cf.Naive()]), "models: expected a mapping"),
    "model that is none": (lambda: compared(models={"LR": LR}), r"models\['LR'\]: .*LogisticRegression"),
    "budget of a comparison": (lambda: compared(budget=40), "budget: .*found 40"),
    "folds of a scorer": (lambda: cf.policy_value_scorer(cost=0.4, folds=2.0), "folds: .*found 2.0"),
    "cost of a scorer": (lambda: cf.policy_value_scorer(cost="0.4"), "cost: .*'0.4'"),
    "bins of cells": (lambda: cf.cell_calibration(P, LOG, bins=0), "bins: .*found 0"),
    "rows of cells": (lambda: cf.cell_calibration(P[:5], LOG), "strata_probability: .*120 rows.*found 5"),
    "pairs of a classifier": (
        lambda: cf.PairClassifier().fit(LOG.x, LOG.t),
        "x: .*integer user and item ids",
    ),
    "targets of a classifier": (
        lambda: cf.PairClassifier().fit(PAIRS.x, PAIRS.t + 1),
        "y: expected 0/1, found",
    ),
    "settings of a classifier": (
        lambda: cf.PairClassifier(config="fast").fit(PAIRS.x, PAIRS.t),
        "config: .*'fast'",
    ),
    "space of a classifier": (
        lambda: cf.PairClassifier(pair_space=9).fit(PAIRS.x, PAIRS.t),
        "pair_space: .*found 9",
    ),
    "shared fits of a table": (
        lambda: cf.PairNuisances(PAIRS.x, config=cf.FitConfig(), propensity_clip=(0.1, 0.9)),
        "log: expected an IncentiveLog",
    ),
    # Data
    "rows as float": (lambda: cf.simulated_features(1000.0), "n: .*found 1000.0"),
    "few rows": (lambda: cf.simulated_campaign(10), "n: .*>= 100, found 10"),
    "generosity": (lambda: cf.simulated_campaign(100, generosity=0), "generosity: .*> 0, found 0"),
    "missing in percent": (lambda: cf.simulated_campaign(100, missing=5), "missing: .*found 5"),
    "users as float": (lambda: cf.simulated(n_users=20.0), "n_users: .*found 20.0"),
    "threshold as text": (lambda: cf.load_ratings("ml-1m", threshold="3"), "threshold: .*'3'"),
    "seeds of a table": (lambda: cf.table4(seeds=2.0, progress=False), "seeds: .*found 2.0"),
    "methods of a table": (
        lambda: cf.table4(methods=3, seeds=1, progress=False),
        "methods: expected names, or a text of names, found 3",
    ),
    "replications": (lambda: monte_carlo.share_bias(0), "n_replications: .*found 0"),
}


@pytest.mark.parametrize("name", CATALOGUE)
def test_it_is_refused_with_what_was_expected_and_found(name):
    call, words = CATALOGUE[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cf.UnitWarning)
        with pytest.raises(cf.InputError) as caught:
            call()
    assert re.search(words, str(caught.value)), str(caught.value)
    assert caught.value.expected and caught.value.found
    assert type(caught.value).__module__ == "cfmtl_lib.errors"


def test_the_catalogue_is_long():
    assert len(CATALOGUE) >= 150
