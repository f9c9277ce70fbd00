"""Models compared on a log: likelihood, policy value and calibration find what the truth would find."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError
from cfmtl_lib.estimators.likelihood import (
    LEAST_PROBABILITY,
    cell_log_likelihood,
    cell_probabilities,
    outcome_log_likelihood,
)
from cfmtl_lib.strata import CELLS


@pytest.fixture(scope="module")
def study():
    return cf.simulated_features(12_000, seed=4)


def test_cell_probabilities_are_those_of_the_arm(study):
    cells = cell_probabilities(study.strata_probability, study.log.t)
    np.testing.assert_allclose(cells.sum(axis=1), 1, atol=1e-12)
    arms = np.array([t for t, _, _ in CELLS])
    assert (cells[:, arms == 0][study.log.t == 1] == 0).all()
    assert (cells[:, arms == 1][study.log.t == 0] == 0).all()
    with pytest.raises(InputError, match="treated: expected shape"):
        cell_probabilities(study.strata_probability[:5], study.log.t)


def test_the_truth_has_the_largest_likelihood(study):
    truth = cell_log_likelihood(study.strata_probability, study.log).mean()
    rng = np.random.default_rng(0)
    for _ in range(5):
        noisy = study.strata_probability * np.exp(rng.normal(0, 0.3, study.strata_probability.shape))
        noisy /= noisy.sum(axis=1, keepdims=True)
        assert cell_log_likelihood(noisy, study.log).mean() < truth
    impossible = np.tile([1.0, 0, 0, 0, 0], (len(study.log), 1))
    assert cell_log_likelihood(impossible, study.log).min() == np.log(LEAST_PROBABILITY)


def test_scores_of_estimators_are_mean_likelihoods(study):
    train, test = study.log.split(0.5, seed=0)
    model = cf.CFOR(outcome=LogisticRegression()).fit(train)
    y = np.column_stack([test.t, test.c, test.y])
    expected = cell_log_likelihood(model.predict_strata(test), test).mean()
    assert model.score(test) == model.score(test.x, y) == expected
    uplift = cf.OR(outcome=LogisticRegression()).fit(train)
    means = [uplift.predict_moment(test, name) for name in ("converted_treated", "converted_untreated")]
    by_hand = np.where(test.t == 1, means[0], means[1])
    by_hand = np.log(np.where(test.y == 1, by_hand, 1 - by_hand))
    assert uplift.score(test) == pytest.approx(by_hand.mean())
    naive = cf.Naive(outcome=LogisticRegression()).fit(train)
    assert naive.score(test) == pytest.approx((by_hand * (test.t == 1)).mean())
    np.testing.assert_array_equal(outcome_log_likelihood(test, means[0])[test.t == 0], 0)


def test_comparison_finds_the_better_model_and_the_better_policy(study):
    models = {
        "logistic": cf.CFOR(outcome=LogisticRegression()),
        "constant": cf.CFOR(outcome=LogisticRegression(C=1e-6)),
        "again": cf.CFOR(outcome=LogisticRegression()),
        "response": cf.Naive(outcome=LogisticRegression()),
    }
    table = cf.compare_models(
        study.log, models, folds=3, nuisances=study.true_nuisances, cost=0.2, budget=0.2
    )
    assert table.index.tolist() == list(models)
    assert table.loc["logistic", "log_likelihood_behind"] == 0 == table["value_behind"].min()
    assert (
        table.loc["constant", "log_likelihood_behind"]
        > 3 * table.loc["constant", "log_likelihood_behind_error"]
    )
    assert table.loc["constant", "value_behind"] > table.loc["constant", "value_behind_error"]
    assert np.isnan(table.loc["response", "log_likelihood"]) and np.isfinite(table.loc["response", "value"])
    # Paired: two models that agree everywhere differ by 0, without error.
    for what in ("log_likelihood", "value"):
        assert table.loc["again", f"{what}_behind"] == table.loc["logistic", f"{what}_behind"]
    assert table.loc["again", "log_likelihood_behind_error"] == 0


def test_values_of_the_comparison_are_near_the_truth(study):
    """Policies are made in three parts of the log, each by models of the other two; the truth is known."""
    models = {"logistic": cf.CFOR(outcome=LogisticRegression())}
    fold = np.arange(len(study.log)) % 3
    found = cf.compare_models(study.log, models, folds=fold, nuisances=study.true_nuisances, cost=0.4)
    expected = 0.0
    for k in range(3):
        model = cf.CFOR(outcome=LogisticRegression()).fit(study.log.take(fold != k))
        treat = cf.allocate(model.predict_reward(study.log.x[fold == k], "coupon", 0.4), 0.4)
        expected += (
            treat * cf.expected_reward(study.strata_probability[fold == k], "coupon", 0.4)
        ).sum() / len(study.log)
    row = found.loc["logistic"]
    assert abs(row["value"] - expected) < 3 * row["value_error"]


def test_comparison_needs_models(study):
    with pytest.raises(InputError, match="models: expected a mapping of names"):
        cf.compare_models(study.log, {}, cost=0.4)


def test_true_probabilities_are_calibrated_and_wrong_ones_are_not(study):
    table = cf.cell_calibration(study.strata_probability, study.log, bins=5)
    assert set(zip(table["treated"], table["collected"], table["converted"], strict=True)) == set(CELLS)
    z = (table["observed"] - table["predicted"]) / table["standard_error"]
    assert (z.abs() < 2).mean() > 0.85 and z.abs().max() < 4
    n_treated = int(study.log.t.sum())
    for cell, rows in table.groupby(["treated", "collected", "converted"])["rows"]:
        assert rows.sum() == (n_treated if cell[0] else len(study.log) - n_treated)
    wrong = study.strata_probability[:, [1, 0, 2, 3, 4]]
    bad = cf.cell_calibration(wrong, study.log, bins=5)
    assert ((bad["observed"] - bad["predicted"]) / bad["standard_error"]).abs().max() > 10


def test_calibration_goes_by_clusters(study):
    twice = study.log.take(np.repeat(np.arange(2000), 2))
    p = np.repeat(study.strata_probability[:2000], 2, axis=0)
    alone = cf.cell_calibration(p, twice, bins=1)["standard_error"]
    together = cf.cell_calibration(p, twice, bins=1, clusters=np.repeat(np.arange(2000), 2))["standard_error"]
    np.testing.assert_allclose(together / alone, np.sqrt(2), rtol=0.01)
    with pytest.raises(InputError, match="bins"):
        cf.cell_calibration(p, twice, bins=0)


def test_bins_of_one_cluster_are_left_out():
    """An error needs two clusters; the other bins of the same cells stay."""
    n = 80
    x = np.repeat([0.0, 1.0], n // 2)
    t = np.arange(n) % 2
    log = cf.IncentiveLog(x[:, None], t, np.zeros(n), np.arange(n) % 3 == 0)
    p = np.where(x[:, None] == 0, [0.6, 0.4, 0, 0, 0], [0.3, 0.7, 0, 0, 0])
    clusters = np.where(x == 0, 0, np.arange(n))
    table = cf.cell_calibration(p, log, bins=2, clusters=clusters)
    never_taker = table[(table["treated"] == 1) & (table["converted"] == 1) & (table["collected"] == 0)]
    assert never_taker["predicted"].tolist() == pytest.approx([0.7])
    apart = cf.cell_calibration(p, log, bins=2)
    assert (len(apart), len(table)) == (10, 6)  # cells that nobody is predicted in have one bin


def test_bins_of_one_row_are_left_out():
    n = 40
    share = np.linspace(0.1, 0.6, n)
    p = np.stack([share, 0.9 - share, np.full(n, 0.1), np.zeros(n), np.zeros(n)], axis=1)
    log = cf.IncentiveLog(np.zeros((n, 1)), np.arange(n) % 2, np.zeros(n), np.arange(n) % 3 == 0)
    table = cf.cell_calibration(p, log, bins=20)
    assert (table["rows"] >= 2).all()
    of_cell = table.groupby(["treated", "collected", "converted"])["rows"].sum()
    assert set(of_cell.index) == {(1, 1, 0), (1, 1, 1)}  # predicted alike in all rows: one bin
