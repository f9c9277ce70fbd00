"""Bounds under confounding: the formula is exact in a population, its errors agree with a simulation."""

import numpy as np
import pytest

import cfmtl_lib as cf
from cfmtl_lib.datasets.simulation_features import POINTS, means_of, propensities, strata_probabilities
from cfmtl_lib.errors import InputError
from cfmtl_lib.value import LogNuisances, confounding_bound

COST = 0.4


@pytest.fixture(scope="module")
def study():
    return cf.simulated_features(60_000, seed=5)


def without(column):
    """Nuisances that miss one feature: its average at equal values of the others, by point of x."""
    rest = np.delete(POINTS, column, axis=1) @ 2.0 ** np.arange(4)
    e, means = propensities(), means_of(strata_probabilities())

    def average(value, weight):
        return np.array([np.average(value[rest == r], weights=weight[rest == r]) for r in rest])

    short = {
        name: average(value, 1 - e if name == "converted_untreated" else e) for name, value in means.items()
    }
    return average(e, np.ones(32)), short


def population(column):
    """The three quantities of the bound for treating everyone in the coupon scenario, worked out exactly."""
    p, e = strata_probabilities(), propensities()
    means = means_of(p)
    e_s, short = without(column)

    def g(which):
        return (
            (1 + COST) * which["converted_treated"] - COST * which["collected_and_converted_treated"],
            (1 + COST) * which["converted_untreated"],
        )

    (g1, g0), (s1, s0) = g(means), g(short)
    # E[W^2 | T=1, x]: W is 1 + c for those who buy without collecting, 1 for those who collect and buy.
    w1 = (1 + COST) ** 2 * p[:, 1] + p[:, 3] + p[:, 4]
    w0 = (1 + COST) ** 2 * means["converted_untreated"]
    sigma2 = np.mean(e * (w1 - 2 * g1 * s1 + s1**2) + (1 - e) * (w0 - 2 * g0 * s0 + s0**2))
    explained = np.mean(e * (g1 - s1) ** 2 + (1 - e) * (g0 - s0) ** 2)
    nu2_short, nu2 = np.mean(1 / e_s + 1 / (1 - e_s)), np.mean(1 / e + 1 / (1 - e))
    bias = np.mean(s1 - s0) - np.mean(g1 - g0)
    # E[(g - g_short)(alpha - alpha_short)], over both arms
    overlap = np.mean(e * (g1 - s1) * (1 / e - 1 / e_s) - (1 - e) * (g0 - s0) * (1 / (1 - e) - 1 / (1 - e_s)))
    return {
        "sigma2": sigma2,
        "r_outcome": explained / sigma2,
        "r_treatment": 1 - nu2_short / nu2,
        "nu2_short": nu2_short,
        "bias": bias,
        "overlap": overlap,
        "rho": overlap / np.sqrt(explained * (nu2 - nu2_short)),
    }


@pytest.mark.parametrize("column", [0, 1, 3])
def test_the_bias_of_a_missing_feature_is_the_formula_with_its_own_correlation(column):
    facts = population(column)
    r_y, r_d = facts["r_outcome"], facts["r_treatment"]
    formula = facts["rho"] * np.sqrt(facts["sigma2"] * facts["nu2_short"] * r_y * r_d / (1 - r_d))
    assert -facts["bias"] == pytest.approx(facts["overlap"], abs=1e-9)
    assert -facts["bias"] == pytest.approx(formula, abs=1e-9)
    assert abs(facts["bias"]) > 1e-4


@pytest.mark.parametrize("column", [0, 1])
def test_the_bound_at_the_true_strength_reaches_the_true_value(study, column):
    facts = population(column)
    e_s, short = without(column)
    nuisances = LogNuisances.from_means(
        e_s[study.point], {name: value[study.point] for name, value in short.items()}
    )
    everyone = np.ones(len(study.log))
    options = {
        "outcome_strength": facts["r_outcome"],
        "treatment_strength": facts["r_treatment"],
        "cost": COST,
    }
    at_rho = confounding_bound(everyone, study.log, nuisances, rho=abs(facts["rho"]), **options)
    true = study.true_value(everyone, "coupon", COST)
    nearest = at_rho.lower if facts["bias"] > 0 else at_rho.upper
    assert abs(nearest - true) <= 3 * at_rho.estimate.standard_error
    worst = confounding_bound(everyone, study.log, nuisances, **options)
    assert worst.lower < at_rho.lower < at_rho.upper < worst.upper
    assert worst.lower_limit < true < worst.upper_limit


def test_robustness_values_are_where_the_bound_and_its_limit_reach_zero(study):
    treat = study.strata_probability[:, 3] > 0.15
    for scenario, sign in (("coupon", 1), ("cash", -1)):
        policy = treat if sign > 0 else ~treat  # the complement loses money with cash
        options = {"scenario": scenario, "cost": COST}

        def at(r, policy=policy, options=options):
            return confounding_bound(
                policy, study.log, study.true_nuisances, outcome_strength=r, treatment_strength=r, **options
            )

        none = at(0.0)
        assert np.sign(none.estimate.value) == sign
        assert none.lower == none.upper == none.estimate.value
        assert 0 < none.robustness_value_limit < none.robustness_value < 1
        touched, limit = at(none.robustness_value), at(none.robustness_value_limit)
        assert (touched.lower if sign > 0 else touched.upper) == pytest.approx(0, abs=1e-6)
        assert (limit.lower_limit if sign > 0 else limit.upper_limit) == pytest.approx(0, abs=1e-4)


def test_errors_of_the_ends_agree_with_a_simulation():
    lower, upper, errors = [], [], []
    for seed in range(300):
        study = cf.simulated_features(1000, seed)
        treat = study.strata_probability[:, 3] > 0.15
        bound = confounding_bound(
            treat, study.log, study.true_nuisances, outcome_strength=0.3, treatment_strength=0.3, cost=0.4
        )
        lower.append(bound.lower)
        upper.append(bound.upper)
        errors.append([bound.lower - bound.lower_limit, bound.upper_limit - bound.upper])
    mean_errors = np.mean(errors, axis=0) / 1.6448536
    for ends, error in zip((lower, upper), mean_errors, strict=True):
        sd = np.std(ends, ddof=1)
        assert abs(sd - error) <= 3 * sd / np.sqrt(2 * 299)
    assert mean_errors[0] != pytest.approx(mean_errors[1], rel=0.05)  # the two ends differ: no mix-up


def test_nothing_to_explain_and_bad_strengths(study):
    nobody = np.zeros(len(study.log))
    bound = confounding_bound(
        nobody, study.log, study.true_nuisances, outcome_strength=0.5, treatment_strength=0.5, cost=0.4
    )
    assert bound.lower == bound.upper == 0
    contradicted = LogNuisances(np.full(len(nobody), 0.01), *[nobody] * 4)
    with pytest.raises(InputError, match="contradicts the log"):
        confounding_bound(
            nobody + 1,
            study.log,
            contradicted,
            outcome_strength=0.1,
            treatment_strength=0.1,
            clip=0.0,
            cost=0.4,
        )
    for name, bad in (("outcome_strength", 1.2), ("treatment_strength", 1.0), ("rho", 2)):
        options = {"outcome_strength": 0.1, "treatment_strength": 0.1, "cost": 0.4, name: bad}
        with pytest.raises(InputError, match=name):
            confounding_bound(nobody, study.log, study.true_nuisances, **options)


def test_without_confounding_it_is_the_policy_value(study):
    treat = study.strata_probability[:, 3] > 0.2
    for scenario in cf.SCENARIOS:
        options = {"scenario": scenario, "cost": COST}
        bound = confounding_bound(
            treat, study.log, study.true_nuisances, outcome_strength=0, treatment_strength=0, **options
        )
        value = cf.policy_value(treat, study.log, study.true_nuisances, **options)
        assert bound.lower == bound.upper == bound.estimate.value
        assert abs(bound.estimate.value - value.value) < 1e-9
        assert abs(bound.estimate.standard_error - value.standard_error) < 1e-9
