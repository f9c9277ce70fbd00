"""Estimates name, in the printed line and in a warning, why their interval cannot be trusted."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

import cfmtl_lib as cf
from cfmtl_lib import value
from cfmtl_lib.errors import TrustWarning
from cfmtl_lib.experiments.evaluation.worlds import WORLDS, draw_log
from cfmtl_lib.policy.origin import LearnedArray, TrainingRows, learned_on, row_hashes
from cfmtl_lib.value.calibration import miscalibration
from cfmtl_lib.value.estimates import mean_estimate


@pytest.fixture(scope="module")
def study():
    return cf.simulated_features(4000, seed=3)


def value_of(log, nuisances, treat=None, **options):
    treat = np.ones(len(log)) if treat is None else treat
    return cf.policy_value(treat, log, nuisances, cost=0.4, **options)


def with_propensity(study, e, **options):
    means = study.true_nuisances.means()
    return cf.LogNuisances.from_means(np.broadcast_to(e, len(study.log)), means, **options)


def test_an_honest_estimate_has_none(study):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate = value_of(study.log, study.true_nuisances)
        shares = cf.strata_shares(study.log, study.true_nuisances)
        among_treated = value.treated_value(np.ones(4000), study.log, study.true_nuisances, cost=0.4)
    assert estimate.cautions == shares.attrs["cautions"] == among_treated.cautions == ()
    assert "NOT RELIABLE" not in str(estimate)


def test_a_mailing_by_rule_is_named_by_every_estimate_of_it():
    drawn = draw_log(WORLDS["rule"], [0, 0], 800)
    log, everyone = drawn.log, np.ones(800)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        nuisances = cf.crossfit(log, folds=3)
    found = []
    for name, estimate in (
        ("policy_value", lambda: value_of(log, nuisances)),
        (
            "policy_value_difference",
            lambda: cf.policy_value_difference(everyone, everyone * 0, log, nuisances, cost=0.4),
        ),
        ("treated_value", lambda: value.treated_value(everyone, log, nuisances, cost=0.4)),
        (
            "confounding_bound",
            lambda: (
                value.confounding_bound(
                    everyone, log, nuisances, cost=0.4, outcome_strength=0.1, treatment_strength=0.1
                ).estimate
            ),
        ),
        ("budget_curve", lambda: cf.budget_curve(everyone, log, nuisances, cost=0.4, n_bootstrap=50)),
    ):
        with pytest.warns(TrustWarning, match=f"{name}: .*propensities so near 0 or 1"):
            found.append(estimate().cautions)
    for name, table in (("strata_shares", cf.strata_shares), ("treated_shares", value.treated_shares)):
        with pytest.warns(TrustWarning, match=name):
            found.append(table(log, nuisances).attrs["cautions"])
    models = {"CF-OR": cf.CFOR(outcome=LogisticRegression())}
    with pytest.warns(TrustWarning, match="compare_models"):
        table = cf.compare_models(log, models, cost=0.4, folds=2, nuisances=nuisances)
    found.append(table.attrs["cautions"])
    assert all(any("clipped" in line for line in lines) for lines in found)
    assert "NOT RELIABLE: " in str(value_of(log, nuisances))


def test_a_propensity_that_the_log_contradicts_is_named(study):
    wrong = with_propensity(study, float(study.log.t.mean()))  # confounded: it depends on x
    found = cf.policy_value(study.log.x[:, 0], study.log, wrong, cost=0.4).cautions
    assert any("weights of treated rows average 1." in line for line in found)
    off = with_propensity(study, np.clip(study.true_nuisances.propensity + 0.2, 0, 0.95))
    assert any("treatment frequencies differ" in line for line in value_of(study.log, off).cautions)
    designed = with_propensity(study, float(study.log.t.mean()), propensity_is_known=True)
    assert value_of(study.log, designed).cautions == ()  # a known one is not judged by chance


def test_miscalibration_counts_the_gap_beyond_chance():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.3, 0.7, 40_000)
    sd = np.sqrt(p * (1 - p))
    happened = rng.random(40_000) < p + 0.2 * sd
    gap, p_value = miscalibration(p, happened)
    assert gap == pytest.approx(0.2, abs=0.02) and p_value < 1e-6
    right = np.array([miscalibration(p[:500], rng.random(500) < p[:500]) for _ in range(200)])
    assert np.median(right[:, 0]) < 0.05  # chance alone would give a fifth
    assert stats.binomtest(int((right[:, 1] < 0.05).sum()), 200, 0.05).pvalue > 0.001


def test_miscalibration_knows_that_clusters_vary_together():
    rng = np.random.default_rng(1)
    member = np.arange(3000) // 10
    p = rng.uniform(0.3, 0.7, 300)[member]

    def together():
        return rng.random(300)[member] < p  # treated as a whole

    by_row = np.array([miscalibration(p, together())[1] for _ in range(100)])
    by_cluster = np.array([miscalibration(p, together(), member=member) for _ in range(100)])
    assert (by_row < 0.001).mean() > 0.8  # taken for independent, chance looks like a fault
    assert (by_cluster[:, 1] < 0.001).mean() < 0.1 and np.median(by_cluster[:, 0]) < 0.1
    off = np.clip(p + 0.25, 0, 1)
    assert miscalibration(off, together(), member=member)[0] > 0.4


def test_few_rows_few_events_and_few_clusters_are_named():
    n = 60
    log = cf.IncentiveLog(np.arange(n)[:, None] / n, np.arange(n) % 2, np.zeros(n), np.zeros(n))
    half = np.full(n, 0.5)
    nuisances = cf.LogNuisances(half, 0 * half, 0 * half, 0 * half, 0 * half, propensity_is_known=True)
    estimate = value_of(log, nuisances)
    assert (estimate.value, estimate.standard_error) == (0, 0)
    text = " ".join(estimate.cautions)
    assert "only 0 of 30 treated rows differ" in text and "effective sample is 30 treated rows" in text
    clustered = value_of(log, nuisances, clusters=np.arange(n) // 6)
    assert any("only 10 clusters are independent" in line for line in clustered.cautions)


def test_intervals_of_few_clusters_take_students_t():
    values = np.random.default_rng(1).normal(size=40)
    estimate = mean_estimate(values, clusters=np.arange(40) // 8)
    reach = stats.t(4).ppf(0.975) * estimate.standard_error
    assert estimate.upper - estimate.value == pytest.approx(reach, rel=1e-12)
    alone = mean_estimate(values)
    assert alone.upper - alone.value == pytest.approx(stats.norm.ppf(0.975) * alone.standard_error)


def test_nuisances_that_saw_the_rows_are_named(study):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        seen = cf.crossfit(study.log, outcome=LogisticRegression(), folds=1)
        held_out = cf.crossfit(study.log, outcome=LogisticRegression(), folds=2)
    assert not seen.cross_fitted and held_out.cross_fitted
    assert any("fitted on the same rows" in line for line in value_of(study.log, seen).cautions)


def test_a_policy_knows_the_rows_that_it_was_learned_on():
    drawn = draw_log(WORLDS["known propensity"], [1, 0], 1000)
    first, second = drawn.log.split(0.5, seed=0)
    model = cf.CFOR(outcome=LogisticRegression()).fit(first)
    nuisances = {id(log): cf.crossfit(log, outcome=LogisticRegression(), folds=2) for log in (first, second)}

    def cautions(log, change=lambda treat: treat):
        treat = change(cf.allocate(model.predict_reward(log, "coupon", 0.4), budget=0.4))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TrustWarning)
            return " ".join(value_of(log, nuisances[id(log)], treat).cautions)

    assert "learned on 100% of these rows" in cautions(first)
    assert "learned on 100% of these rows" in cautions(first, lambda treat: treat & (first.x[:, 0] > 0))
    assert "learned on" not in cautions(second)
    score = model.predict_reward(first, "coupon", 0.4)
    with pytest.warns(TrustWarning, match="learned on 100%"):
        cf.budget_curve(2 * score, first, nuisances[id(first)], cost=0.4, n_bootstrap=50)
    threshold = score > 0
    assert "learned on" in " ".join(value_of(first, nuisances[id(first)], threshold).cautions)
    whole = TrainingRows(first).share_of(drawn.log)
    assert whole == 0.5


def test_either_policy_of_a_difference_can_have_seen_the_rows():
    drawn = draw_log(WORLDS["known propensity"], [1, 0], 1000)
    first, second = drawn.log.split(0.5, seed=0)
    nuisances = cf.crossfit(first, outcome=LogisticRegression(), folds=2)
    here, elsewhere = (
        cf.CFOR(outcome=LogisticRegression()).fit(log).predict_reward(first, "coupon", 0.4) > 0.05
        for log in (first, second)
    )
    for pair in ((here, elsewhere), (elsewhere, here)):
        told = cf.policy_value_difference(*pair, first, nuisances, cost=0.4).cautions
        among = value.treated_value(pair[0], first, nuisances, other=pair[1], cost=0.4).cautions
        assert all(any("learned on 100%" in line for line in lines) for lines in (told, among))
    alone = cf.policy_value_difference(elsewhere, ~elsewhere, first, nuisances, cost=0.4).cautions
    assert not any("learned on" in line for line in alone)


def test_a_few_rows_that_are_equal_by_chance_say_nothing():
    rng = np.random.default_rng(0)
    n = 4000
    logs = [
        cf.IncentiveLog(rng.integers(0, 300, (n, 2)) / 1.0, t, np.zeros(n), rng.integers(0, 2, n))
        for t in (rng.integers(0, 2, n), rng.integers(0, 2, n))
    ]
    rows = TrainingRows(logs[0])
    equal = np.isin(row_hashes(logs[1]), rows.hashes).mean()
    assert rows.identifies_units and equal > 0 and rows.share_of(logs[1]) == 0.0
    assert rows.share_of(logs[0]) == 1.0


def test_rows_that_are_alike_by_chance_are_not_taken_for_the_same():
    train, other = (cf.simulated_features(2000, seed=seed).log for seed in (1, 2))
    rows = TrainingRows(train)  # 32 values of x
    assert rows.share_of(other) == 0.0 and rows.share_of(train) == 1.0
    again = cf.IncentiveLog(train.x.copy(), train.t, train.c, train.y)
    assert rows.share_of(again) == 1.0


def test_learned_arrays_are_plain_where_they_leave():
    rows = TrainingRows(cf.simulated_features(200, seed=1).log)
    values = np.arange(4.0).view(LearnedArray)
    values.learned_on = rows
    assert learned_on(values > 1) is rows and learned_on(values[1:] * 2) is rows
    assert type(values.sum()) is np.float64 and type(values.mean()) is np.float64
    assert learned_on(np.asarray(values)) is None
    assert type(pickle.loads(pickle.dumps(values))) is np.ndarray
    assert learned_on(pd.Series(values)) is None


def test_few_untreated_rows_that_resemble_the_treated_are_named(study):
    log, truth = study.log, study.true_nuisances
    lonely = np.where(study.point < 1, 0.98, truth.propensity)  # their odds outweigh all others
    nuisances = cf.LogNuisances.from_means(lonely, truth.means(), propensity_is_known=True)
    few = ((np.arange(4000) % 100 < 2) & (study.point < 2)).astype(float)
    found = value.treated_value(few, log, nuisances, cost=0.4).cautions
    assert any("untreated rows: too few" in line for line in found)
