"""Outcomes in money: values, curves, bounds and the DR-learner, by identities and against the truth."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError, LogError
from cfmtl_lib.nuisances.amounts import combined
from cfmtl_lib.nuisances.moments import OUTCOME_MEANS
from cfmtl_lib.policy.rewards import OUTCOME
from cfmtl_lib.value.treated import treated_value


class World(NamedTuple):
    """Log of a world with lognormal amounts, and what it is made of at its rows."""

    log: cf.IncentiveLog
    known: cf.LogNuisances
    effect: np.ndarray
    paid: np.ndarray


def draw(n, seed):
    """Buyers spend lognormal amounts, more if treated; one in ten of the treated who do not buy returns."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-1, 2, size=(n, 2)).astype(float)
    e = 1 / (1 + np.exp(-0.6 * x[:, 0]))
    collects = 0.4 + 0.2 * x[:, 1]
    mu1, mu0 = 0.35 + 0.1 * x[:, 0] + 0.1 * x[:, 1], 0.25 + 0.1 * x[:, 0]
    t = (rng.random(n) < e).astype(int)
    c = t * (rng.random(n) < collects)
    y = (rng.random(n) < np.where(t == 1, mu1, mu0)).astype(int)
    scale, sd = np.where(t == 1, 2.2, 2.0), 0.9
    m = y * np.exp(scale + sd * rng.standard_normal(n))
    m -= 5.0 * ((t == 1) & (y == 0) & (rng.random(n) < 0.1))
    spent1, spent0 = np.exp(2.2 + sd**2 / 2), np.exp(2.0 + sd**2 / 2)
    means = {
        "converted_treated": mu1,
        "converted_untreated": mu0,
        "collected_treated": collects,
        "collected_and_converted_treated": collects * mu1,
        "outcome_treated": mu1 * spent1 - 0.5 * (1 - mu1),
        "outcome_untreated": mu0 * spent0,
    }
    log = cf.IncentiveLog(x, t=t, c=c, y=y, outcome=m, propensity=e)
    known = cf.LogNuisances.from_means(e, means, propensity_is_known=True)
    return World(log, known, means["outcome_treated"] - means["outcome_untreated"], collects * mu1)


def population_value(policy_of, cost):
    """Expected value over the nine values of x, by the formulas of :func:`draw`."""
    big = draw(200_000, 99)
    return float((policy_of(big.log.x) * (big.effect - cost * big.paid)).mean())


@pytest.fixture(scope="module")
def world():
    return draw(3000, 1)


@pytest.fixture(scope="module")
def as_conversions():
    """A log whose amounts are its conversions."""
    study = cf.simulated_features(2000, seed=3)
    return study, replace(study.log, outcome=study.log.y.astype(float))


def policy_of(x):
    return (x[:, 1] >= 0).astype(float)


def test_amounts_that_are_conversions_give_their_values_at_value_one(as_conversions):
    study, money = as_conversions
    means = study.true_nuisances.means()
    known = replace(
        study.true_nuisances,
        outcome_treated=means["converted_treated"],
        outcome_untreated=means["converted_untreated"],
    )
    score = study.strata_probability[:, cf.strata.COUPON_BUYER] - 0.1
    treat = score > 0
    for scenario in ("coupon", "cash"):
        ours, theirs = {"cost": 0.3}, {"cost": 0.3, "conversion_value": 1.0}
        pairs = [
            [
                cf.policy_value(treat, log, known, scenario=scenario, **w),
                cf.policy_value_difference(treat, ~treat, log, known, scenario=scenario, **w),
                treated_value(treat, log, known, scenario=scenario, **w),
                cf.value.confounding_bound(
                    treat, log, known, scenario=scenario, outcome_strength=0.1, treatment_strength=0.1, **w
                ).estimate,
            ]
            for log, w in ((money, ours), (study.log, theirs))
        ]
        for found, expected in zip(*pairs, strict=True):
            assert found.value == pytest.approx(expected.value, abs=1e-12)
            assert found.standard_error == pytest.approx(expected.standard_error, abs=1e-12)
            assert found.unit == OUTCOME
        curves = [
            cf.budget_curve(score, log, known, scenario=scenario, n_bootstrap=50, **w)
            for log, w in ((money, ours), (study.log, theirs))
        ]
        np.testing.assert_allclose(curves[0].value, curves[1].value, atol=1e-12)
        np.testing.assert_allclose(curves[0].upper_uniform, curves[1].upper_uniform, atol=1e-12)
        bounds = [
            cf.value.reward_lower_bound(treat, log, known, scenario=scenario, least_propensity=0.1, **w)
            for log, w in ((money, ours | {"outcome_range": (0, 1)}), (study.log, theirs))
        ]
        # Only conversions tell that the payment of a coupon needs one.
        assert bounds[0].estimate == pytest.approx(bounds[1].estimate, abs=1e-12)
        assert bounds[0].score_range >= bounds[1].score_range


def test_cross_fitted_amounts_need_their_log_and_their_regressor(as_conversions, world):
    study, money = as_conversions
    lines = {"outcome": LogisticRegression(), "propensity": study.true_nuisances.propensity}
    with pytest.raises(InputError, match="nuisances: expected means of the log's outcome in money"):
        cf.policy_value(np.ones(len(money), bool), money, study.true_nuisances, cost=0.3)
    with pytest.raises(InputError, match="amount: expected none, as the log has no outcome in money"):
        cf.crossfit(study.log, amount=LinearRegression(), **lines)
    with pytest.raises(InputError, match="amount: "):
        cf.crossfit(money, amount=LogisticRegression(), **lines)
    alone = cf.crossfit(world.log, amount=LinearRegression(), outcome=LogisticRegression(), folds=2)
    folds = cf.nuisances.cross_fitting.fold_of_rows(world.log, 2, 0)
    rows = (world.log.t == 1) & (folds == 1)
    line = LinearRegression().fit(world.log.x[rows], world.log.outcome[rows])
    np.testing.assert_allclose(alone.outcome_treated[folds == 0], line.predict(world.log.x[folds == 0]))


def test_amounts_of_a_fold_do_not_reach_its_own_means(world):
    folds = cf.nuisances.cross_fitting.fold_of_rows(world.log, 3, 0)
    raised = world.log.outcome + np.where(folds == 1, 100.0, 0.0)
    fits = [
        cf.crossfit(replace(world.log, outcome=m), amount=LinearRegression(), folds=folds)
        for m in (world.log.outcome, raised)
    ]
    for name in OUTCOME_MEANS:
        before, after = (getattr(fit, name) for fit in fits)
        np.testing.assert_array_equal(before[folds == 1], after[folds == 1])
        assert (after[folds != 1] > before[folds != 1] + 10).all()


def test_combined_predictions_take_the_better_one():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=500)
    predictions = np.column_stack([rng.normal(size=500), truth, -truth])
    found = combined(predictions, 2 * truth + 1, np.arange(500) < 400)
    np.testing.assert_allclose(found, 2 * truth + 1, atol=0.2)


def test_default_means_of_amounts_explain_them(world):
    fitted = cf.crossfit(world.log, seed=0)
    for name in OUTCOME_MEANS:
        found, truth = getattr(fitted, name), getattr(world.known, name)
        error = np.square(found - truth).mean() / np.square(truth - truth.mean()).mean()
        assert error < 0.5, name  # 1 is the error of the mean of all rows


def test_pairs_have_amounts_by_their_conversions():
    study = cf.simulated(n_users=40, n_items=40, n_pairs=1200)
    rng = np.random.default_rng(0)
    log = replace(study.train, outcome=study.train.y * rng.lognormal(size=len(study.train)))
    fitted = cf.crossfit(log, folds=2)
    assert np.corrcoef(fitted.outcome_treated, fitted.converted_treated)[0, 1] > 0.9


def test_the_value_of_a_policy_in_money_is_right(world):
    truth = population_value(policy_of, 2.0)
    for nuisances in (world.known, None):
        found = cf.policy_value(policy_of(world.log.x), world.log, nuisances, cost=2.0)
        assert abs(found.value - truth) < 3 * found.standard_error
        assert f"{OUTCOME} a row" in str(found)


@pytest.mark.slow
def test_intervals_of_values_in_money_cover():
    """Of 300 logs with zero-inflated lognormal amounts; regressions are wrong, the propensity is known."""
    truth, covered, n_logs = population_value(policy_of, 2.0), 0, 300
    for seed in range(n_logs):
        log = draw(1500, 1000 + seed).log
        fitted = cf.crossfit(log, outcome=LogisticRegression(), amount=LinearRegression(), folds=2)
        value = cf.policy_value(policy_of(log.x), log, fitted, cost=2.0)
        covered += value.lower <= truth <= value.upper
    assert 0.92 <= covered / n_logs <= 0.98


def test_the_dr_learner_predicts_money(world):
    model = cf.DRLearner(effect=LinearRegression()).fit(world.log)
    cells = np.unique(world.log.x, axis=0)
    found = model.predict_reward(cells, "coupon", 2.0)
    rows = [int(np.flatnonzero((world.log.x == cell).all(axis=1))[0]) for cell in cells]
    truth = (world.effect - 2.0 * world.paid)[rows]
    assert np.corrcoef(found, truth)[0, 1] > 0.8 and np.abs(found).max() > 1
    with pytest.raises(
        InputError, match="conversion_value: expected none: the model was fitted to an outcome"
    ):
        model.predict_reward(cells, "coupon", 2.0, 14.0)
    with pytest.raises(InputError, match="predict_effects: expected a model of conversions"):
        model.predict_effects(cells)


def test_the_dr_learner_predicts_money_for_pairs_too():
    """Ids become numbers in a log of features, which has to keep the amounts."""
    study = cf.simulated(n_users=60, n_items=60, n_pairs=2400)
    rng = np.random.default_rng(0)
    amounts = 50.0 * study.train.y * rng.lognormal(sigma=0.2, size=len(study.train))
    model = cf.DRLearner(folds=2).fit(replace(study.train, outcome=amounts))
    assert model.in_money_ and np.abs(model.predict_cate(study.test.x)).max() > 1


def test_learners_of_conversions_ask_what_one_is_worth(world):
    model = cf.CFOR(outcome=LogisticRegression()).fit(world.log)
    with pytest.raises(InputError, match="conversion_value: expected the value of a conversion, as CFOR"):
        model.predict_reward(world.log, "coupon", 2.0)
    reward = model.predict_reward(world.log, "coupon", 2.0, 12.0)
    np.testing.assert_array_equal(model.predict(world.log, "coupon", 2.0, conversion_value=12.0), reward)
    table = cf.compare_models(
        world.log, {"DR": cf.DRLearner(effect=LinearRegression())}, cost=2.0, nuisances=world.known, folds=2
    )
    assert table.attrs["unit"] == OUTCOME and table.loc["DR", "value"] > 0


def test_the_automatic_choice_works_in_money(world):
    auto = cf.AutoPolicy(
        cost=2.0,
        candidates={
            "lines": cf.DRLearner(effect=LinearRegression()),
            "conversions": cf.CFOR(outcome=LogisticRegression()),
        },
    ).fit(world.log, nuisances=world.known)
    assert auto.chosen_ == "lines" and auto.value_.unit == OUTCOME
    assert "conversion_value" in auto.table_.loc["conversions", "note"]
    assert np.isfinite(auto.predict_reward(world.log.x[:5])).all()


def test_winsorising_is_told_wherever_the_outcome_is_used(world):
    log = cf.winsorise(world.log, 0.01)
    low, high = np.quantile(world.log.outcome, [0.01, 0.99])
    np.testing.assert_array_equal(log.outcome, world.log.outcome.clip(low, high))
    treat = np.ones(len(log), dtype=bool)
    money = cf.policy_value(treat, log, world.known, cost=2.0)
    raw = cf.policy_value(treat, world.log, world.known, cost=2.0)
    assert "; outcome winsorised to [" in str(money) and "amounts moved" in money.note and not raw.note
    assert money.standard_error < raw.standard_error
    assert "winsorised" in str(cf.policy_value_difference(treat, ~treat, log, world.known, cost=2.0))
    assert "winsorised" not in str(cf.policy_value(treat, log, world.known, cost=2.0, conversion_value=9.0))
    with pytest.raises(LogError, match="log: expected one with an outcome in money, as it was observed"):
        cf.winsorise(log)
    with pytest.raises(LogError, match="found none"):
        cf.winsorise(cf.simulated_features(100).log)


def test_bounds_at_any_sample_size_need_the_range_of_amounts(world):
    treat = np.ones(len(world.log), dtype=bool)
    how = {"cost": 2.0, "least_propensity": 0.3}
    for wrong in (None, (0, 1), (5.0, -5.0), 3.0, (-10.0, np.nan)):
        with pytest.raises(InputError, match="outcome_range: expected"):
            cf.value.reward_lower_bound(treat, world.log, world.known, outcome_range=wrong, **how)
    bound = cf.value.reward_lower_bound(treat, world.log, world.known, outcome_range=(-5, 1000), **how)
    assert bound.bound < population_value(lambda x: np.ones(len(x)), 2.0)


def test_a_log_takes_amounts_from_a_column_and_keeps_them():
    table = pd.DataFrame(
        {
            "sent": [1, 0, 1, 0],
            "used": [1, 0, 0, 0],
            "bought": [1, 1, 0, 1],
            "age": [30, 41, 22, 35],
            "margin": [12.5, 3.0, -4.0, 7.0],
        }
    )
    roles = {"treatment": "sent", "collected": "used", "converted": "bought", "features": ["age"]}
    log = cf.IncentiveLog.from_frame(table, outcome="margin", **roles)
    assert log.outcome.tolist() == [12.5, 3.0, -4.0, 7.0] and "outcome 18.50" in repr(log)
    assert log.take([0, 1]).outcome.tolist() == [12.5, 3.0]
    with pytest.raises(LogError, match="features: expected columns known before"):
        cf.IncentiveLog.from_frame(table, outcome="age", **roles)
    with pytest.raises(LogError, match="converted: expected a column of its own, found 'bought'"):
        cf.IncentiveLog.from_frame(table, outcome="bought", **roles)
    for wrong in ([1.0, np.nan, 0.0, 2.0], [1.0, np.inf, 0.0, 2.0], [1.0, 2.0], ["a"] * 4):
        with pytest.raises(LogError, match="outcome: expected"):
            cf.IncentiveLog.from_frame(table, outcome=wrong, **roles)
    labelled = pd.Series([7.0, -4.0, 3.0, 12.5], index=[3, 2, 1, 0])
    assert cf.IncentiveLog.from_frame(table, outcome=labelled, **roles).outcome.tolist() == [12.5, 3, -4, 7]


def test_means_of_amounts_come_in_pairs(world):
    with pytest.raises(InputError, match="both or none"):
        replace(world.known, outcome_untreated=None)
    with pytest.raises(InputError, match="outcome_treated: expected"):
        replace(world.known, outcome_treated=np.ones(3))
