"""Cost and value of a conversion mean the same in every function, for all rows or for each."""

import warnings

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError, UnitWarning
from cfmtl_lib.policy.rewards import CONVERSION_VALUE, NET_CONVERSIONS
from cfmtl_lib.value.treated import treated_value

NET = {"cost": 0.4}
MONEY = {"cost": 4.0, "conversion_value": 14.0}  # a net conversion is worth 10


@pytest.fixture(scope="module")
def study():
    return cf.simulated_features(3000, seed=5)


@pytest.fixture(scope="module")
def learners():
    lines = LogisticRegression()
    return {
        "CF-OR": cf.CFOR(outcome=lines),
        "OR": cf.OR(outcome=lines),
        "OR-net": cf.ORNet(outcome=lines),
        "DR-learner": cf.DRLearner(),
        "ESMM": cf.ESMM(),
    }


def by_row(worth, n):
    return {name: np.full(n, value) for name, value in worth.items()}


def functions(study):
    """Results of the functions of policy values, as numbers that a change of unit multiplies."""
    log, known = study.log, study.true_nuisances
    score = study.strata_probability[:, cf.strata.COUPON_BUYER] - 0.1
    treat, other = score > 0, score > 0.1
    few = {"n_bootstrap": 50}

    def numbers(curve):
        return [*curve.value, *curve.upper_uniform, *curve.spend, curve.area]

    return {
        "policy_value": lambda **w: [
            (v := cf.policy_value(treat, log, known, **w)).value,
            v.upper,
            v.spend.value,
        ],
        "policy_value_difference": lambda **w: [
            cf.policy_value_difference(treat, other, log, known, **w).value
        ],
        "treated_value": lambda **w: [treated_value(treat, log, known, **w).value],
        "budget_curve": lambda **w: numbers(cf.budget_curve(score, log, known, **few, **w)),
        "budget_curve_difference": lambda **w: numbers(
            cf.budget_curve_difference(score, -score, log, known, only_positive=False, **few, **w)
        ),
        "confounding_bound": lambda **w: [
            (
                b := cf.value.confounding_bound(
                    treat, log, known, outcome_strength=0.1, treatment_strength=0.1, **w
                )
            ).lower,
            b.upper_limit,
        ],
        "reward_lower_bound": lambda **w: [
            *cf.value.reward_lower_bound(treat, log, known, least_propensity=0.1, **w)
        ],
        "compare_models": lambda **w: (
            cf.compare_models(
                log,
                {"a": cf.OR(outcome=LogisticRegression()), "b": cf.CFOR(outcome=LogisticRegression())},
                nuisances=known,
                folds=2,
                **w,
            )[["value", "value_error", "value_behind"]]
            .to_numpy()
            .ravel()
        ),
    }


@pytest.mark.parametrize("scenario", ["coupon", "cash"])
@pytest.mark.parametrize("name", list(functions(cf.simulated_features(100))))
def test_values_in_money_are_those_in_conversions_times_the_worth_of_one(study, name, scenario):
    function, n = functions(study)[name], len(study.log)
    net = np.asarray(function(scenario=scenario, **NET))
    money = np.asarray(function(scenario=scenario, **MONEY))
    np.testing.assert_allclose(money, 10 * net, rtol=1e-9, atol=1e-12)
    each = np.asarray(function(scenario=scenario, **by_row(MONEY, n)))
    np.testing.assert_allclose(each, money, rtol=1e-9, atol=1e-12)
    assert np.abs(net).max() > 0


@pytest.mark.parametrize("name", list(functions(cf.simulated_features(100))))
def test_a_series_of_costs_or_values_has_the_labels_of_the_log(study, name):
    with pytest.raises(InputError, match="cost: expected"):
        functions(study)[name](cost=pd.Series(np.full(3, 0.4)))
    with pytest.raises(InputError, match="conversion_value: expected"):
        functions(study)[name](cost=0.4, conversion_value=np.full(3, 1.4))
    with pytest.warns(UnitWarning, match="above conversion_value"):
        functions(study)[name](cost=2.0, conversion_value=1.0)


@pytest.mark.parametrize("scenario", ["coupon", "cash"])
def test_every_learner_predicts_in_money(study, learners, scenario):
    new = study.log.x[:200]
    for name, model in learners.items():
        fitted = model.fit(study.log)
        net = fitted.predict_reward(new, scenario, **NET)
        money = fitted.predict_reward(new, scenario, **MONEY)
        np.testing.assert_allclose(money, 10 * net, rtol=1e-6, atol=1e-9, err_msg=name)
        each = fitted.predict_reward(new, scenario, **by_row(MONEY, 200))
        np.testing.assert_allclose(each, money, atol=1e-12, err_msg=name)
        np.testing.assert_array_equal(fitted.predict(new, scenario, **MONEY), money)
        with pytest.raises(InputError, match="conversion_value: expected"):
            fitted.predict_reward(new, scenario, 0.4, -1.0)


def test_a_response_in_money_is_the_value_of_its_conversions(study):
    model = cf.Naive(outcome=LogisticRegression()).fit(study.log)
    response = model.predict_reward(study.log.x, "coupon", 0.0)
    np.testing.assert_allclose(
        model.predict_reward(study.log.x, "coupon", 4.0, 14.0), 14 * response - 4, atol=1e-12
    )


def test_costs_of_rows_are_charged_to_these_rows(study):
    """Half of the rows at one cost and half at another: the sum of both parts."""
    log, known, n = study.log, study.true_nuisances, len(study.log)
    first, cost = np.arange(n) < n // 2, np.where(np.arange(n) < n // 2, 0.1, 0.7)
    treat = study.strata_probability[:, cf.strata.COUPON_BUYER] > 0.1
    parts = [
        cf.policy_value(treat & rows, log, known, cost=c, conversion_value=1.5).value
        for rows, c in ((first, 0.1), (~first, 0.7))
    ]
    both = cf.policy_value(treat, log, known, cost=cost, conversion_value=1.5)
    assert both.value == pytest.approx(sum(parts), abs=1e-12)
    everywhere = cf.budget_curve(
        treat.astype(float), log, known, cost=cost, conversion_value=1.5, n_bootstrap=50
    )
    assert everywhere.value[-1] == pytest.approx(both.value, abs=1e-12)


def test_units_are_printed_beside_values(study):
    treat = np.ones(len(study.log), dtype=bool)
    net = cf.policy_value(treat, study.log, study.true_nuisances, **NET)
    money = cf.policy_value(treat, study.log, study.true_nuisances, **MONEY)
    assert net.unit == NET_CONVERSIONS and f"] {NET_CONVERSIONS} a row, treats" in str(net)
    assert money.unit == CONVERSION_VALUE and f"] {CONVERSION_VALUE} a row, treats" in str(money)


def test_a_file_is_scored_in_money(tmp_path):
    campaign = cf.simulated_campaign(800, seed=2)
    model = cf.CFOR(outcome=LogisticRegression()).fit(campaign.log())
    table = campaign.table.assign(price=np.linspace(5, 15, 800), worth=np.linspace(20, 60, 800))
    table.to_parquet(tmp_path / "customers.parquet")
    for cost, value in ((4.0, 14.0), ("price", "worth")):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UnitWarning)
            cf.score_parquet(
                model,
                tmp_path / "customers.parquet",
                tmp_path / "scores.parquet",
                cost=cost,
                conversion_value=value,
                rows_per_chunk=300,
            )
        found = pq.read_table(tmp_path / "scores.parquet").column("reward").to_numpy()
        given = [table[name].to_numpy() if isinstance(name, str) else name for name in (cost, value)]
        np.testing.assert_allclose(found, model.predict_reward(campaign.table, "coupon", *given), atol=1e-12)


def test_the_automatic_choice_is_the_same_in_money(study):
    lines = {"lines": cf.CFOR(outcome=LogisticRegression()), "response": cf.Naive()}
    net, money = (
        cf.AutoPolicy(candidates=lines, **worth).fit(study.log, nuisances=study.true_nuisances)
        for worth in (NET, MONEY)
    )
    assert money.value_.value == pytest.approx(10 * net.value_.value, rel=0.05)
    assert money.value_.unit == CONVERSION_VALUE and f"{CONVERSION_VALUE} a row" in money.reason_
    new = study.log.x[:50]
    np.testing.assert_array_equal(money.predict_reward(new, "coupon", 4.0, 14.0), money.predict_reward(new))
    with pytest.raises(InputError, match=r"conversion_value: expected 14\.0, for which"):
        money.predict_reward(new, "coupon", 4.0, 12.0)
