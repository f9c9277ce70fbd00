"""Values, differences and shares: standard errors, clusters, coverage, and agreement with DoubleML."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError
from cfmtl_lib.experiments.evaluation.monte_carlo import binomial_range, coverage, share_bias
from cfmtl_lib.value import confounding_bound
from cfmtl_lib.value.estimates import mean_estimate
from cfmtl_lib.value.scores import net_means, net_outcome


@pytest.fixture(scope="module")
def study():
    return cf.simulated_features(4000, seed=2)


@pytest.fixture(scope="module")
def treat(study):
    return study.strata_probability[:, 3] > 0.17


def test_value_is_the_mean_score_of_the_treated_and_is_linear_in_the_policy(study, treat):
    score = cf.unit_scores(study.log, study.true_nuisances).reward("cash", 0.3)
    options = {"scenario": "cash", "cost": 0.3}
    value = cf.policy_value(treat, study.log, study.true_nuisances, **options)
    assert value.value == pytest.approx((treat * score).mean(), abs=1e-12)
    assert value.standard_error == pytest.approx((treat * score).std(ddof=1) / np.sqrt(4000), abs=1e-12)
    assert value.total == 4000 * value.value and value.share_treated == treat.mean()
    half = cf.policy_value(treat / 2, study.log, study.true_nuisances, **options)
    assert half.value == pytest.approx(value.value / 2, abs=1e-12)
    nobody = cf.policy_value(np.zeros(4000), study.log, study.true_nuisances, **options)
    assert (nobody.value, nobody.standard_error, nobody.effective_sample_size) == (0, 0, (0, 0))


def test_spend_is_cost_times_payments(study):
    everyone = np.ones(4000)
    for scenario, paid in (("coupon", study.stratum >= 3), ("cash", study.stratum >= 2)):
        spend = cf.policy_value(everyone, study.log, study.true_nuisances, scenario=scenario, cost=0.4).spend
        assert abs(spend.value - 0.4 * paid.mean()) <= 3 * spend.standard_error


def test_effective_sample_size_counts_the_rows_of_a_trial_and_shrinks_with_unequal_weights(study):
    n = 1000
    rng = np.random.default_rng(0)
    t = rng.permutation(np.repeat([0, 1], n // 2))
    log = cf.IncentiveLog(np.zeros((n, 1)), t, np.zeros(n), rng.integers(0, 2, n))
    half = np.full(n, 0.5)
    trial = cf.LogNuisances(half, half, half, 0 * half, 0 * half, propensity_is_known=True)
    assert cf.policy_value(np.ones(n), log, trial, cost=0.4).effective_sample_size == pytest.approx(
        (500, 500)
    )
    value = cf.policy_value(np.ones(4000), study.log, study.true_nuisances, cost=0.4)
    arms = int(study.log.t.sum()), int((study.log.t == 0).sum())
    assert all(size < arm for size, arm in zip(value.effective_sample_size, arms, strict=True))


def test_paired_difference_cancels_what_both_treat(study, treat):
    other = treat.copy()
    other[:40] = ~other[:40]
    options = {"scenario": "coupon", "cost": 0.4}
    difference = cf.policy_value_difference(treat, other, study.log, study.true_nuisances, **options)
    each = [cf.policy_value(policy, study.log, study.true_nuisances, **options) for policy in (treat, other)]
    assert difference.value == pytest.approx(each[0].value - each[1].value, abs=1e-12)
    assert difference.standard_error < 0.3 * each[0].standard_error
    same = cf.policy_value_difference(treat, treat, study.log, study.true_nuisances, **options)
    assert (same.value, same.standard_error, same.p_positive) == (0, 0, 0.5)


def test_clusters_of_copies_give_the_error_of_the_originals():
    values = np.random.default_rng(0).normal(size=300)
    one = mean_estimate(values)
    copies = mean_estimate(np.tile(values, 4), clusters=np.tile(np.arange(300), 4))
    assert copies.n_clusters == 300 and copies.n == 1200
    assert copies.standard_error == pytest.approx(one.standard_error, abs=1e-12)
    assert mean_estimate(np.tile(values, 4)).standard_error < 0.51 * one.standard_error
    alone = mean_estimate(values, clusters=[f"user {i}" for i in range(300)])
    assert alone.standard_error == pytest.approx(one.standard_error, abs=1e-12)


def test_shares_sum_to_one_and_are_near_the_truth(study):
    shares = cf.strata_shares(study.log, study.true_nuisances)
    assert shares.index.tolist() == list(cf.STRATA)
    assert shares["value"].sum() == pytest.approx(1, abs=1e-9)
    true = study.strata_probability.mean(axis=0)
    assert (abs(shares["value"] - true) <= 3 * shares["standard_error"]).all()


def test_bad_input_is_refused(study):
    nuisances = study.true_nuisances
    with pytest.raises(InputError, match=r"treat: expected True/False or probabilities.*allocate"):
        cf.policy_value(np.full(4000, 1.2), study.log, nuisances, cost=0.4)
    with pytest.raises(InputError, match=r"shape \(4000,\)"):
        cf.policy_value([True, False], study.log, nuisances, cost=0.4)
    with pytest.raises(InputError, match="dtype"):
        cf.policy_value(np.full(4000, "yes"), study.log, nuisances, cost=0.4)
    with pytest.raises(InputError, match="level"):
        cf.policy_value(np.ones(4000), study.log, nuisances, level=95, cost=0.4)
    with pytest.raises(InputError, match="clusters"):
        cf.policy_value(np.ones(4000), study.log, nuisances, clusters=[1, 2], cost=0.4)
    with pytest.raises(InputError, match="two units or clusters"):
        cf.policy_value(np.ones(4000), study.log, nuisances, clusters=np.zeros(4000), cost=0.4)


def test_true_value_is_for_policies_of_x(study):
    with pytest.raises(InputError, match="rows of one x that differ"):
        study.true_value(np.arange(4000) % 2 == 1, "coupon", 0.4)


def test_cfdr_is_unbiased_unless_both_nuisances_are_wrong():
    table = share_bias(n_replications=300, n=2500).set_index(["nuisances", "estimator", "stratum"])
    z = (table["bias"] / table["standard_error"]).abs().unstack("stratum")
    for right in (
        ("both right", "CF-OR"),
        ("both right", "CF-IPS"),
        ("both right", "CF-DR"),
        ("outcome wrong", "CF-IPS"),
        ("outcome wrong", "CF-DR"),
        ("propensity wrong", "CF-OR"),
        ("propensity wrong", "CF-DR"),
        ("both fitted", "CF-DR"),
    ):
        assert (z.loc[right] <= 3).all(), right
    for wrong in (("outcome wrong", "CF-OR"), ("propensity wrong", "CF-IPS"), ("both wrong", "CF-DR")):
        assert z.loc[wrong].max() > 8, wrong
    assert z.loc[("both fitted", "CF-IPS")].max() > 5  # weights 1 / fitted propensity are not those of 1 / e


@pytest.mark.slow
def test_intervals_of_values_and_of_paired_differences_cover():
    table = coverage(150, 1500)
    assert len(table) == 6
    low, high = binomial_range(150, 0.95, probability=1 - 0.01 / len(table))
    assert table["coverage"].between(low, high).all(), table
    assert (table["bias"].abs() <= 3 * table["bias_se"]).all(), table


@pytest.fixture(scope="module")
def doubleml():
    return pytest.importorskip(
        "doubleml", reason="compares with DoubleML: pip install -c constraints.txt -e '.[compare]'"
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scenario", cf.SCENARIOS)
def test_doubleml_finds_the_same_on_the_same_folds(doubleml, study, treat, scenario):
    from sklearn.linear_model import LinearRegression, LogisticRegression

    log, fold = study.log, np.arange(4000) % 4
    nuisances = cf.crossfit(log, outcome=LogisticRegression(), propensity=LogisticRegression(), folds=fold)
    g1, g0 = net_means(log, nuisances, scenario, 0.4)
    frame = pd.DataFrame(log.x, columns=[f"x{k}" for k in range(5)]).assign(
        t=log.t, w=net_outcome(log, scenario, 0.4)
    )
    given = {
        "t": {
            name: np.asarray(column, dtype=float)[:, None]
            for name, column in (("ml_g1", g1), ("ml_g0", g0), ("ml_m", nuisances.propensity))
        }
    }
    for policy in (np.ones(4000), treat.astype(float)):
        weights = policy / policy.mean()
        model = doubleml.DoubleMLIRM(
            doubleml.DoubleMLData(frame, "w", "t"), LinearRegression(), LogisticRegression(), weights=weights
        )
        model.set_sample_splitting([(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(4)])
        model.fit(external_predictions=given)
        value = cf.policy_value(policy, log, nuisances, scenario=scenario, clip=0.0, cost=0.4)
        scale = policy.mean()
        assert scale * model.coef[0] == pytest.approx(value.value, abs=1e-6)
        if policy.all():
            # DoubleML divides by n where we divide by n - 1.
            assert model.se[0] * np.sqrt(4000 / 3999) == pytest.approx(value.standard_error, abs=1e-6)
            model.sensitivity_analysis(cf_y=0.04, cf_d=0.03, rho=1.0, level=0.95)
            bound = confounding_bound(
                policy,
                log,
                nuisances,
                outcome_strength=0.04,
                treatment_strength=0.03,
                scenario=scenario,
                clip=0.0,
                cost=0.4,
            )
            theirs = model.sensitivity_params
            assert theirs["theta"]["lower"][0] == pytest.approx(bound.lower, abs=1e-6)
            assert theirs["theta"]["upper"][0] == pytest.approx(bound.upper, abs=1e-6)
            assert theirs["rv"][0] == pytest.approx(bound.robustness_value, abs=1e-4)
            # DoubleML 0.11 adds the score of the bias with the sign of the other end: its errors of the two
            # ends are ours exchanged. Ours are held against a simulation in test_value_confounding.
            quantile = norm.ppf(0.95)
            n_factor = np.sqrt(4000 / 3999)
            ours = [
                (bound.lower - bound.lower_limit) / quantile,
                (bound.upper_limit - bound.upper) / quantile,
            ]
            assert theirs["se"]["lower"][0] * n_factor == pytest.approx(ours[1], abs=1e-6)
            assert theirs["se"]["upper"][0] * n_factor == pytest.approx(ours[0], abs=1e-6)
