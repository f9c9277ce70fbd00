"""Bounds of the cautions: at each an estimate is silent, one row beyond it is not."""

import dataclasses

import numpy as np
import pytest

import cfmtl_lib as cf
from cfmtl_lib import value
from cfmtl_lib.errors import TrustWarning
from cfmtl_lib.nuisances.moments import LogNuisances

N = 400
T = np.arange(N) % 2
EVERYONE = np.ones(N, dtype=bool)


def log_of(y=None, **options):
    rng = np.random.default_rng(0)
    y = np.arange(N) % 3 == 0 if y is None else y
    return cf.IncentiveLog(rng.normal(size=(N, 2)), T, T * (np.arange(N) % 4 == 1), y, **options)


def nuisances_of(e=0.5, **options):
    return LogNuisances(np.broadcast_to(e, N).copy(), *[np.full(N, 0.3)] * 4, **options)


def told(treat=EVERYONE, log=None, nuisances=None, **options):
    """Cautions of a value, which are also its warning and at the end of its line."""
    arguments = (treat, log_of() if log is None else log, nuisances or nuisances_of())
    options = {"cost": 0.4} | options
    with pytest.warns(TrustWarning) as warned:
        found = cf.policy_value(*arguments, **options)
    (message,) = [str(w.message) for w in warned]
    assert message == f"policy_value: {'; '.join(found.cautions)}."
    assert str(found).endswith(f"; NOT RELIABLE: {'; '.join(found.cautions)}")
    (only,) = found.cautions
    return only


def silent(treat=EVERYONE, log=None, nuisances=None, **options):
    """Warnings are errors here."""
    log = log_of() if log is None else log
    found = cf.policy_value(treat, log, nuisances or nuisances_of(), **({"cost": 0.4} | options))
    assert found.cautions == () and "NOT RELIABLE" not in str(found)


def test_an_ordinary_log_is_silent():
    silent()
    silent(nuisances=nuisances_of(propensity_is_known=True))


def clipped(n_rows):
    e = np.full(N, 0.5)
    e[:n_rows] = np.where(T[:n_rows] == 1, 0.999, 0.001)  # each row had the arm that it was sure to have
    return nuisances_of(e)


def test_more_than_a_twentieth_of_clipped_rows_is_told():
    silent(nuisances=clipped(20))
    assert told(nuisances=clipped(21)).startswith("5% of the rows had propensities so near 0 or 1")
    assert told(nuisances=clipped(80)).startswith("20% of the rows")


def test_only_rows_that_the_policy_treats_count():
    treat = np.arange(N) >= 80
    silent(treat, nuisances=clipped(80))
    assert told(treat | (np.arange(N) < 40), nuisances=clipped(80)).startswith("11% of the rows")


def test_a_small_effective_sample_of_either_arm_is_told():
    silent(np.arange(N) < 100)
    weights = np.where(np.arange(N) < 344, 0.05, 1.0)  # a policy that hardly treats most rows
    size = weights[T == 1].sum() ** 2 / (weights[T == 1] ** 2).sum()
    assert size < 50 <= 2 * size
    with pytest.warns(TrustWarning, match=f"the effective sample is {size:.0f} treated rows"):
        found = cf.policy_value(weights, log_of(), nuisances_of(), cost=0.4)
    assert [caution.split(":")[0] for caution in found.cautions] == [
        f"the effective sample is {size:.0f} {arm} rows" for arm in ("treated", "untreated")
    ]


@pytest.mark.parametrize("arm, name", [(1, "treated"), (0, "untreated")])
@pytest.mark.parametrize("rare", [0, 1])
def test_fewer_than_ten_of_the_rarer_outcome_in_an_arm_are_told(arm, name, rare):
    def with_events(count):
        y = np.arange(N) % 4 < 2
        y[arm == T] = 1 - rare
        y[np.flatnonzero(arm == T)[:count]] = rare
        return log_of(y)

    silent(log=with_events(10))
    assert told(log=with_events(9)).startswith(f"only 9 of 200 {name} rows differ in their outcome")


def test_fewer_than_twenty_clusters_are_told():
    silent(log=log_of(cluster=np.arange(N) % 20))
    assert told(log=log_of(cluster=np.arange(N) % 19)).startswith("only 19 clusters are independent")
    assert told(clusters=np.arange(N) % 19).startswith("only 19 clusters")


def test_nuisances_of_the_same_rows_are_told():
    assert told(nuisances=nuisances_of(cross_fitted=False)).startswith(
        "nuisances were fitted on the same rows"
    )


def test_a_propensity_that_is_off_in_parts_is_told_unless_it_is_known():
    e = np.where(np.arange(N) < 200, 0.35, 0.65)
    e[T == 0] = 1 - e[T == 0]  # means agree with the arms in neither half
    with pytest.warns(TrustWarning, match="treatment frequencies differ from the fitted propensities by"):
        cf.policy_value(EVERYONE, log_of(), nuisances_of(e), cost=0.4)
    silent(nuisances=nuisances_of(e, propensity_is_known=True))


def test_weights_that_do_not_average_to_one_are_told():
    with pytest.warns(TrustWarning, match=r"weights of treated rows average 1\.43 instead of 1"):
        cf.policy_value(EVERYONE, log_of(), nuisances_of(0.35), cost=0.4)
    silent(nuisances=nuisances_of(0.47))


def test_a_policy_that_was_learned_on_the_rows_is_told():
    log = log_of()
    first, second = log.split(0.5, seed=1)
    model = cf.Naive().fit(first)
    treat = cf.allocate(model.predict_reward(log.x, "coupon", 0.0), 0.9)
    half = told(treat, log)
    assert half.startswith("the policy was learned on 50% of these rows")
    assert half == told(treat & EVERYONE, log)
    for pair in ((treat, EVERYONE), (EVERYONE, treat)):
        with pytest.warns(TrustWarning, match="learned on 50% of these rows"):
            cf.policy_value_difference(*pair, log, nuisances_of(), cost=0.4)
    rows = np.flatnonzero(log.split_mask(0.5, seed=1) == 0)
    fields = dataclasses.asdict(nuisances_of())
    there = LogNuisances(**{k: v[rows] if isinstance(v, np.ndarray) else v for k, v in fields.items()})
    cf.policy_value(cf.allocate(model.predict_reward(second.x, "coupon", 0.0), 0.9), second, there, cost=0.4)


def test_differences_and_tables_are_told_too():
    few = log_of(cluster=np.arange(N) % 19)
    with pytest.warns(TrustWarning, match="policy_value_difference: only 19 clusters"):
        found = cf.policy_value_difference(np.arange(N) < 200, EVERYONE, few, nuisances_of(), cost=0.4)
    assert found.cautions and "NOT RELIABLE" in str(found)
    with pytest.warns(TrustWarning, match="strata_shares: only 19 clusters"):
        table = cf.strata_shares(few, nuisances_of())
    assert table.attrs["cautions"] == found.cautions
    with pytest.warns(TrustWarning, match="only 19 clusters"):
        value.budget_curve(few.x[:, 0], few, nuisances_of(), cost=0.4, n_bootstrap=50)
