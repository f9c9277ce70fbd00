"""Clusters, levels and clipping mean the same in every function that takes them."""

import importlib
import inspect
import pkgutil

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import cfmtl_lib as cf
from cfmtl_lib import deployment, value
from cfmtl_lib.estimators.base import StrataEstimator
from cfmtl_lib.nuisances.moments import MOMENTS, LogNuisances
from cfmtl_lib.value.curves import budget_curve, budget_curve_difference
from cfmtl_lib.value.estimates import Estimate, PolicyValue, mean_estimate
from cfmtl_lib.value.scores import unit_scores

N = 800
COST = 0.4

# Copies of rows and heavy clipping are asked about on purpose, whatever an estimate says of them.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Data:
    """A log, its nuisances, and columns that the functions are asked about."""

    def __init__(self, log, nuisances, label):
        self.log, self.nuisances, self.label = log, nuisances, label
        self.treat, self.other = log.x[:, 0] > 0, log.x[:, 1] > 0
        self.score = log.x @ [0.5, -0.2, 0.1, 0.3, 0.05]
        self.strata = np.full((len(log), 5), 0.1) + 0.5 * np.eye(5)[(log.x @ [1, 1, 1, 1, 0]).astype(int)]
        self.money = {"scenario": "cash", "cost": COST}
        self.budget = {"cost": COST, "budget": 1.0}

    def of(self, log=None, nuisances=None):
        return Data(
            self.log if log is None else log, self.nuisances if nuisances is None else nuisances, self.label
        )


class Given(StrataEstimator):
    """Predicts strata that it was given a rule for: nothing is fitted."""

    def fit(self, x, y=None):
        self.remember_input(x)
        return self

    def predict_strata(self, x):
        return np.full((len(x), 5), 0.1) + 0.5 * np.eye(5)[(np.asarray(x)[:, :4].sum(axis=1)).astype(int)]


def interval(estimate):
    return (estimate.value, estimate.standard_error, estimate.lower, estimate.upper)


def from_table(table):
    return tuple(table[["value", "standard_error", "lower", "upper"]].to_numpy().T)


def curve(found):
    return (found.value, found.standard_error, found.lower, found.upper)


def bounds(d, o, end, sign):
    table = value.strata_bounds(d.log, d.nuisances, groups=d.log.x[:, 0], **o)
    return table[end].to_numpy(), table[f"{end}_se"].to_numpy()


def confounded(d, o):
    return value.confounding_bound(
        d.treat, d.log, d.nuisances, outcome_strength=0.1, treatment_strength=0.1, **d.money, **o
    )


# By name: what is asked of the data, as (value, standard error) or (value, standard error, lower, upper).
ASKED = {
    "policy_value": lambda d, o: interval(cf.policy_value(d.treat, d.log, d.nuisances, **d.money, **o)),
    "policy_value, spend": lambda d, o: interval(
        cf.policy_value(d.treat, d.log, d.nuisances, **d.money, **o).spend
    ),
    "policy_value_difference": lambda d, o: interval(
        cf.policy_value_difference(d.treat, d.other, d.log, d.nuisances, **d.money, **o)
    ),
    "strata_shares": lambda d, o: from_table(cf.strata_shares(d.log, d.nuisances, **o)),
    "treated_shares": lambda d, o: from_table(value.treated_shares(d.log, d.nuisances, **o)),
    "treated_value": lambda d, o: interval(
        value.treated_value(d.treat, d.log, d.nuisances, other=d.other, **d.money, **o)
    ),
    "treated_effect": lambda d, o: interval(
        value.treated_effect(d.log.y, d.nuisances.converted_untreated, d.log, d.nuisances, **o)
    ),
    "budget_curve": lambda d, o: curve(
        budget_curve(d.score, d.log, d.nuisances, budgets=[0.2, 0.7], n_bootstrap=60, **d.money, **o)
    ),
    "budget_curve, spend": lambda d, o: (
        (
            found := budget_curve(
                d.score, d.log, d.nuisances, budgets=[0.2, 0.7], n_bootstrap=60, **d.money, **o
            )
        ).spend,
        found.spend_standard_error,
    ),
    "budget_curve, area": lambda d, o: (
        (
            found := budget_curve(
                d.score, d.log, d.nuisances, budgets=[0.2, 0.7], n_bootstrap=60, **d.money, **o
            )
        ).area,
        found.area_standard_error,
    ),
    "budget_curve_difference": lambda d, o: curve(
        budget_curve_difference(
            d.score, d.log.x[:, 1], d.log, d.nuisances, budgets=[0.2, 0.7], n_bootstrap=60, **d.money, **o
        )
    ),
    "strata_bounds": lambda d, o: bounds(d, o, "lower", -1),
    "strata_bounds, upper": lambda d, o: bounds(d, o, "upper", 1),
    "confounding_bound": lambda d, o: interval(confounded(d, o).estimate),
    "confounding_bound, lower": lambda d, o: (
        confounded(d, o).lower,
        (confounded(d, o).lower - confounded(d, o).lower_limit) / norm.ppf(o.get("level", 0.95)),
    ),
    "confounding_bound, upper": lambda d, o: (
        confounded(d, o).upper,
        (confounded(d, o).upper_limit - confounded(d, o).upper) / norm.ppf(o.get("level", 0.95)),
    ),
    "negative_control": lambda d, o: interval(
        value.negative_control(d.log.x[:, 2] + 0.1 * d.log.y, d.log, d.nuisances, **o)
    ),
    "negative_control, means": lambda d, o: interval(
        value.negative_control(
            d.log.y, d.log, d.nuisances, means=(d.log.x[:, 0] * 0.5, d.log.x[:, 1] * 0.5), **o
        )
    ),
    "check_implications": lambda d, o: tuple(
        value.check_implications(d.log, d.nuisances, groups=d.log.x[:, 0], **o)[["share", "standard_error"]]
        .to_numpy()
        .T
    ),
    "arm_means": lambda d, o: from_table(value.arm_means(d.log.y, d.log.t, block=d.log.x[:, 4], **o)),
    "arm_means, reference": lambda d, o: from_table(value.arm_means(d.log.y, d.log.t, reference=0, **o)),
    "compare_models": lambda d, o: tuple(
        deployment.compare_models(
            d.log, {"given": Given()}, folds=d.log.x[:, 4].astype(int), nuisances=d.nuisances, **d.budget, **o
        )[["value", "value_error"]].to_numpy()[0]
    ),
    "compare_models, likelihood": lambda d, o: tuple(
        deployment.compare_models(
            d.log, {"given": Given()}, folds=d.log.x[:, 4].astype(int), nuisances=d.nuisances, **d.budget, **o
        )[["log_likelihood", "log_likelihood_error"]].to_numpy()[0]
    ),
    "cell_calibration": lambda d, o: tuple(
        deployment.cell_calibration(d.strata, d.log, bins=2, **o)[["observed", "standard_error"]].to_numpy().T
    ),
}

WITHOUT_A_LOG = ("arm_means",)
"""Functions of columns, which know no clusters but those given."""


def taking(option):
    return {
        function.__name__
        for package in (value, deployment)
        for _, function in inspect.getmembers(package, inspect.isfunction)
        if option in inspect.signature(function).parameters
    }


def names_that_take(option):
    return [name for name in ASKED if name.split(",")[0] in taking(option)]


@pytest.fixture(scope="module")
def data():
    study = cf.simulated_features(N, seed=12)
    log = cf.IncentiveLog(study.log.x, study.log.t, study.log.c, study.log.y)
    truth = study.true_nuisances
    means = {name: getattr(truth, name) * 0.9 for name in MOMENTS}
    return Data(log, LogNuisances.from_means(truth.propensity, means), np.arange(N))


@pytest.fixture(scope="module")
def copies(data):
    """The same log three times over, the label of a row being its number."""
    rows = np.repeat(np.arange(N), 3)
    fields = {name: getattr(data.nuisances, name)[rows] for name in ("propensity", *MOMENTS)}
    return Data(data.log.take(rows), LogNuisances(**fields), rows)


@pytest.mark.parametrize("option", ["clusters", "level", "clip"])
def test_every_public_function_that_takes_the_option_is_asked(option):
    assert taking(option) - {"treated_scores", "unit_scores"} <= {name.split(",")[0] for name in ASKED}
    functions = {f.__name__ for m in pkgutil.iter_modules(value.__path__) for _, f in _functions_of(m.name)}
    assert functions >= taking(option) - {"compare_models", "cell_calibration"}


def _functions_of(module):
    found = importlib.import_module(f"cfmtl_lib.value.{module}")
    return inspect.getmembers(found, inspect.isfunction)


@pytest.mark.parametrize("name", names_that_take("clusters"))
def test_copies_of_a_row_count_once_if_they_are_one_cluster(name, data, copies):
    ask = ASKED[name]
    once, apart = ask(data, {}), ask(copies, {})
    given = ask(copies, {"clusters": copies.label})
    np.testing.assert_allclose(given[0], once[0], atol=1e-9)
    np.testing.assert_allclose(given[1], once[1], rtol=1e-2)
    assert np.max(apart[1]) < 0.8 * np.max(once[1])  # about 1 / sqrt(3): taken for independent rows
    if name.split(",")[0] in WITHOUT_A_LOG:
        return
    log = copies.log
    labelled = cf.IncentiveLog(log.x, log.t, log.c, log.y, cluster=[f"user {row:03}" for row in copies.label])
    of_log = ask(copies.of(log=labelled), {})
    np.testing.assert_allclose(of_log[0], once[0], atol=1e-9)
    np.testing.assert_allclose(of_log[1], once[1], rtol=1e-2)
    # Labels that are given go before those of the log.
    rowwise = ask(copies.of(log=labelled), {"clusters": np.arange(len(log))})
    np.testing.assert_allclose(rowwise[1], apart[1], rtol=1e-9)


@pytest.mark.parametrize("level", [0.5, 0.9])
@pytest.mark.parametrize("name", [name for name in names_that_take("level") if "bound" not in name])
def test_intervals_are_of_the_level_asked_for(name, level, data):
    found = ASKED[name](data, {"level": level})
    if len(found) == 2:
        return
    point, error, lower, upper = found
    reach = norm.ppf((1 + level) / 2) * np.asarray(error)
    np.testing.assert_allclose(np.subtract(point, lower), reach, atol=1e-12)
    np.testing.assert_allclose(np.subtract(upper, point), reach, atol=1e-12)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_limits_of_bounds_are_of_the_level_asked_for(level, data):
    def wide(**options):
        return value.strata_bounds(data.log, data.nuisances, monotonicity=False, level=level, **options)

    # One end may be missed by a share whose range is wide: the limit is one-sided.
    table = wide(exclusion=False)
    table = table[table["upper"] - table["lower"] > 10 * table[["lower_se", "upper_se"]].max(axis=1)]
    assert (table[["lower_se", "upper_se"]].max() > 0.01).all()
    for end, sign in (("lower", -1), ("upper", 1)):
        reach = norm.ppf(level) * table[f"{end}_se"]
        np.testing.assert_allclose(sign * (table[f"{end}_limit"] - table[end]), reach, atol=1e-6)
    point = value.strata_bounds(data.log, data.nuisances, level=level)
    reach = norm.ppf((1 + level) / 2) * point["lower_se"]
    np.testing.assert_allclose(point["lower"] - point["lower_limit"], reach, atol=1e-6)
    bound = ASKED["confounding_bound"](data, {"level": level})
    at = confounded(data, {"level": level})
    none = value.confounding_bound(
        data.treat,
        data.log,
        data.nuisances,
        outcome_strength=0,
        treatment_strength=0,
        level=level,
        **data.money,
    )
    assert none.lower - none.lower_limit == pytest.approx(norm.ppf(level) * bound[1])
    assert at.level == none.level == level


@pytest.mark.parametrize("name", names_that_take("clip"))
def test_clipping_is_that_of_the_propensities(name, data):
    ask = ASKED[name]
    clip = 0.35
    # Effects on the treated divide by 1 - e only.
    low = 0 if name.startswith("treated") else clip
    clipped = ask(data.of(nuisances=data.nuisances.clipped(low, 1 - clip)), {"clip": 0.0})
    found = ask(data, {"clip": clip})
    for ours, theirs in zip(found, clipped, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert not np.allclose(found[0], ask(data, {"clip": 0.0})[0], atol=1e-9)


def test_both_ends_of_clipping_are_counted_and_propensities_at_the_bound_are_not():
    e = np.array([0.05, 0.2, 0.5, 0.8, 0.95, 0.97])
    log = cf.IncentiveLog(np.zeros((6, 1)), [0, 1, 0, 1, 0, 1], [0] * 6, [0] * 6)
    nuisances = LogNuisances(e, *[np.full(6, 0.5)] * 4)
    assert unit_scores(log, nuisances, clip=0.2).n_clipped == 3
    scores = value.treated_scores(log, nuisances, clip=0.2)
    assert scores.n_clipped == 2
    np.testing.assert_allclose(scores.odds, [0.05 / 0.95, 0, 1, 0, 4, 0])
    # Estimates keep 0.01 from 0 and 1 by default.
    near = LogNuisances(np.array([0.011, 0.009, 0.5, 0.991, 0.989, 0.5]), *[np.full(6, 0.5)] * 4)
    assert unit_scores(log, near).n_clipped == 2


@pytest.mark.parametrize("name", ["budget_curve", "budget_curve, spend"])
def test_curves_are_of_the_scenario_asked_for(name, data):
    found = ASKED[name](data, {})[0][-1]
    treat = cf.threshold_policy(data.score, 0.7).probability
    by_hand = cf.policy_value(treat, data.log, data.nuisances, scenario="cash", cost=COST)
    assert found == pytest.approx((by_hand.spend if "spend" in name else by_hand).value, abs=1e-9)


def test_totals_tails_and_sizes_by_hand(data):
    estimate = cf.policy_value(
        data.treat, data.log, data.nuisances, **data.money, clusters=data.log.x @ 2.0 ** np.arange(5)
    )
    assert (estimate.n, estimate.n_clusters) == (N, 32)
    assert estimate.total_standard_error == N * estimate.standard_error
    assert estimate.p_positive == pytest.approx(norm.cdf(-estimate.value / estimate.standard_error))
    e, t = data.nuisances.propensity, data.log.t == 1
    for size, weight in zip(
        estimate.effective_sample_size, ((data.treat / e)[t], (data.treat / (1 - e))[~t]), strict=True
    ):
        assert size == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    among = value.treated_value(data.treat, data.log, data.nuisances, **data.money)
    assert among.n == int(t.sum())


def test_the_printed_line_says_what_the_fields_do():
    spend = Estimate(0.1234, 0.0111, 0.1, 0.15, 0.95, 7000, 50)
    found = PolicyValue(
        0.4567, 0.0222, 0.41, 0.5, 0.95, 7000, 50, share_treated=0.321, spend=spend,
        effective_sample_size=(1234.4, 5678.6), n_clipped=4321,
    )  # fmt: skip
    for part in (
        "0.4567 ± 0.0222 [0.4100, 0.5000]",
        "treats 32.1%",
        "spends 0.1234 ± 0.0111",
        "1,234 treated, 5,679 untreated",
        "4,321 propensities clipped",
    ):
        assert part in str(found)


def test_one_sided_p_values_are_small_for_values_above_zero():
    assert mean_estimate(np.array([1.0, 2.0, 3.0, 2.0])).p_positive < 1e-6
    assert mean_estimate(np.array([-1.0, -2.0, -3.0, -2.0])).p_positive > 1 - 1e-6


def test_two_clusters_by_hand():
    """Sums of deviations are -2 and 2; with the factor 2 / (2 - 1) the error is sqrt(2 * 8) / 4."""
    found = mean_estimate(np.array([0.0, 0.0, 1.0, 3.0]), clusters=pd.Series(["a", "a", "b", "b"]))
    assert (found.value, found.standard_error) == (1.0, pytest.approx(1.0))
