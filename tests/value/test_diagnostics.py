"""Checks raise the alarm where they should, and only as often as they may."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

import cfmtl_lib as cf
from cfmtl_lib.datasets import simulation_features
from cfmtl_lib.datasets.simulation_features import POINTS
from cfmtl_lib.errors import InputError
from cfmtl_lib.nuisances.moments import MOMENTS
from cfmtl_lib.strata import observe
from cfmtl_lib.value import balance, check_implications, negative_control, overlap, propensity_calibration
from cfmtl_lib.value.diagnostics import holm


@pytest.fixture(scope="module")
def study():
    return cf.simulated_features(6000, seed=3)


def blind_to(study, column):
    """The truth, but for a propensity that averages over one feature."""
    truth = study.true_nuisances
    rest = np.delete(POINTS, column, axis=1) @ 2.0 ** np.arange(4)
    e = np.array([simulation_features.propensities()[rest == r].mean() for r in rest])
    means = {name: getattr(truth, name) for name in MOMENTS}
    return cf.LogNuisances.from_means(e[study.point], means)


def test_overlap_by_hand():
    log = cf.IncentiveLog(np.zeros((4, 1)), [1, 1, 0, 0], [0] * 4, [0] * 4)
    half = np.full(4, 0.5)
    e = np.array([0.5, 0.25, 0.5, 0.96])
    table = overlap(log, cf.LogNuisances(e, half, half, half, half))
    assert table.loc["treated", "effective_sample_size"] == pytest.approx(36 / 20)
    assert table.loc["treated", "largest_weight"] == pytest.approx(4 / 6)
    assert table.loc["untreated", "effective_sample_size"] == pytest.approx(27**2 / (4 + 625))
    assert table["extreme"].tolist() == [0.5, 0.0]
    assert table["n"].tolist() == [2, 2]


def test_balance_by_hand_and_its_z_has_mean_0_and_sd_1():
    z = []
    for seed in range(200):
        study = cf.simulated_features(1500, seed)
        table = balance(study.log, study.true_nuisances, pd.DataFrame(study.log.x[:, :1]))
        z.append(table["z_after"].iloc[0])
    assert abs(np.mean(z)) <= 3 / np.sqrt(200)
    assert abs(np.std(z) - 1) <= 3 / np.sqrt(2 * 199)
    x, t = study.log.x[:, 0], study.log.t
    pooled = np.sqrt((x[t == 1].var() + x[t == 0].var()) / 2)
    assert table["before"].iloc[0] == pytest.approx((x[t == 1].mean() - x[t == 0].mean()) / pooled)
    e = study.log.propensity
    after = np.average(x, weights=t / e) - np.average(x, weights=(1 - t) / (1 - e))
    assert table["after"].iloc[0] == pytest.approx(after / pooled)


def test_a_propensity_that_misses_a_feature_is_found_by_that_feature_only(study):
    covariates = pd.DataFrame(study.log.x)
    right = balance(study.log, study.true_nuisances, covariates)
    assert (right["z_after"].abs() <= 3).all()
    wrong = balance(study.log, blind_to(study, 0), covariates)["z_after"].abs()
    assert wrong[0] > 8 and (wrong[1:] <= 4).all()


def test_negative_controls_are_zero_unless_confounded(study):
    rng = np.random.default_rng(0)
    control = rng.random(6000) < 0.2 + 0.6 * study.log.x[:, 0]  # an earlier outcome, driven by feature 0
    for means in (None, (np.full(6000, 0.5), np.full(6000, 0.5))):
        right = negative_control(control, study.log, study.true_nuisances, means=means)
        wrong = negative_control(control, study.log, blind_to(study, 0), means=means)
        assert abs(right.value) <= 3 * right.standard_error
        assert abs(wrong.value) > 5 * wrong.standard_error
    # With the right means of the control, the wrong propensity does no harm.
    mean = 0.2 + 0.6 * study.log.x[:, 0]
    rescued = negative_control(control, study.log, blind_to(study, 0), means=(mean, mean))
    assert abs(rescued.value) <= 3 * rescued.standard_error
    with pytest.raises(InputError, match="outcome"):
        negative_control(control[:4], study.log, study.true_nuisances)
    with pytest.raises(InputError, match="finite"):
        negative_control(np.full(6000, np.inf), study.log, study.true_nuisances)


def test_calibration_is_blind_where_the_model_is_and_sees_by_another_number(study):
    right = propensity_calibration(study.log, study.true_nuisances)
    assert right.attrs["p_value"] > 0.001 and right["n"].sum() == 6000
    averaged = blind_to(study, 0)
    by_itself = propensity_calibration(study.log, averaged)
    by_feature = propensity_calibration(study.log, averaged, by=study.log.x[:, 0], n_bins=2)
    assert by_itself.attrs["p_value"] > 0.001  # an average over a feature is calibrated over itself
    assert by_feature.attrs["p_value"] < 1e-10
    with pytest.raises(InputError, match="n_bins"):
        propensity_calibration(study.log, averaged, n_bins=0)


def test_implications_are_rejected_as_rarely_as_announced_and_found_where_violated():
    # No coupon buyers and no always buyers: both inequalities hold with equality, the hardest case.
    p = simulation_features.strata_probabilities()
    p[:, 2] += p[:, 3] + p[:, 4]
    p[:, 3:] = 0
    rejected = 0
    for seed in range(150):
        study = cf.simulated_features(1500, seed)
        stratum = np.minimum(study.stratum, 2)
        c, y = observe(stratum, study.log.t)
        log = cf.IncentiveLog(study.log.x, study.log.t, c, y, study.log.propensity)
        means = simulation_features.means_of(p[study.point])
        # Regressions that know no x leave the scores something to vary by.
        flat = {name: np.full(1500, mean.mean()) for name, mean in means.items()}
        nuisances = cf.LogNuisances.from_means(log.propensity, flat, propensity_is_known=True)
        groups = study.log.x[:, 0] * 2 + study.log.x[:, 4]
        rejected += (check_implications(log, nuisances, groups=groups)["p_holm"] < 0.05).any()
    low, high = binom.ppf([0.005, 0.995], 150, 0.05)
    assert low <= rejected <= high
    # Half of those with the second feature are put off by the incentive: Y(1) < Y(0) there.
    study = cf.simulated_features(4000, 1)
    log = study.log
    rng = np.random.default_rng(0)
    put_off = (log.x[:, 1] == 1) & (log.t == 1) & (rng.random(4000) < 0.7)
    defied = cf.IncentiveLog(log.x, log.t, log.c, np.where(put_off, 0, log.y), log.propensity)
    found = check_implications(defied, cf.crossfit(defied), groups=log.x[:, 1])
    low = found[found["p_holm"] < 0.05]
    assert low[["stratum", "group"]].values.tolist() == [["coupon buyer", 1.0]]
    assert found["n"].sum() == 2 * 4000


def test_no_variation_is_certainty_and_not_silence():
    log = cf.IncentiveLog(np.zeros((4, 1)), [1, 1, 0, 0], [0] * 4, [0, 0, 1, 1])
    half, zero = np.full(4, 0.5), np.zeros(4)
    nuisances = cf.LogNuisances(half, zero, half * 2, zero, zero)
    found = check_implications(log, nuisances, groups=[0] * 4).iloc[0]
    assert (found["share"], found["z"], found["p_holm"]) == (-1, -np.inf, 0)
    treatment_itself = balance(log, nuisances, pd.DataFrame({"t": log.t, "constant": [1] * 4}))
    assert treatment_itself["z_after"].tolist() == [np.inf, 0]
    sure = cf.LogNuisances(np.array([0.0, 0.0, 1.0, 1.0]), zero, zero, zero, zero)
    assert propensity_calibration(log, sure, n_bins=2).attrs["p_value"] == 0
    nobody = cf.policy_value(np.zeros(4), log, nuisances, cost=0.4)
    everyone = cf.policy_value(np.ones(4), log, nuisances, cost=0.4)
    assert (nobody.z, nobody.p_positive) == (0, 0.5)
    assert (everyone.z, everyone.p_positive) == (-np.inf, 1)


def test_shapes_and_missing_labels_are_refused(study):
    log, truth = study.log, study.true_nuisances
    with pytest.raises(InputError, match="means"):
        negative_control(log.x[:, 0], log, truth, means=(np.zeros((6000, 1)), np.zeros(6000)))
    with pytest.raises(InputError, match="by: expected finite"):
        propensity_calibration(log, truth, by=np.full(6000, np.nan))
    with pytest.raises(InputError, match="nuisances"):
        propensity_calibration(log, cf.LogNuisances(*[np.full(3, 0.5)] * 5), by=log.x[:, 0])
    for labels in (np.where(np.arange(6000) == 7, np.nan, 1.0), [None] * 6000):
        with pytest.raises(InputError, match="a label in each row"):
            check_implications(log, truth, clusters=labels)
        with pytest.raises(InputError, match="a label in each row"):
            check_implications(log, truth, groups=labels)
    with pytest.raises(InputError, match="clusters"):
        check_implications(log, truth, clusters=np.arange(9000))


def test_holm_by_hand_and_bad_groups(study):
    np.testing.assert_allclose(holm(np.array([0.5, 0.001, 0.02])), [0.5, 0.003, 0.04])
    with pytest.raises(InputError, match="groups"):
        check_implications(study.log, study.true_nuisances, groups=[1, 2])
    with pytest.raises(InputError, match="n_groups"):
        check_implications(study.log, study.true_nuisances, n_groups=6000)
