"""The simulated campaign and the simulated features: what their docstrings promise of each parameter."""

import numpy as np
import pytest

import cfmtl_lib as cf
from cfmtl_lib.datasets.simulation_campaign import CAMPAIGN_FEATURES
from cfmtl_lib.errors import InputError


def test_generosity_multiplies_the_odds_of_coupon_buyers():
    plain, other = (cf.simulated_campaign(400, seed=3, generosity=g) for g in (1.0, 2.5))
    odds, others_odds = (
        study.strata_probability[:, 3] / study.strata_probability[:, 0] for study in (plain, other)
    )
    np.testing.assert_allclose(others_odds, 2.5 * odds)
    kept = [0, 1, 2, 4]
    np.testing.assert_allclose(
        other.strata_probability[:, kept] / other.strata_probability[:, :1],
        plain.strata_probability[:, kept] / plain.strata_probability[:, :1],
    )
    # The same customers, mailed alike.
    np.testing.assert_array_equal(plain.propensity, other.propensity)
    for name in ("days_since_order", "orders", "spent", "channel", "member", "mailed"):
        np.testing.assert_array_equal(plain.table[name], other.table[name])


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_a_share_of_the_ages_and_of_the_cities_is_missing_and_of_nothing_else(missing):
    table = cf.simulated_campaign(4000, seed=3, missing=missing).table
    for name in ("age", "city"):
        assert abs(table[name].isna().mean() - missing) <= 3.5 * np.sqrt(missing * (1 - missing) / 4000)
    assert not table.drop(columns=["age", "city"]).isna().any(axis=None)


def test_the_log_of_a_campaign_is_its_table():
    study = cf.simulated_campaign(400, seed=3)
    log = study.log(known_propensity=True)
    np.testing.assert_array_equal(log.propensity, study.propensity)
    assert study.log().propensity is None
    assert log.encoder.names == CAMPAIGN_FEATURES
    for column, name in (("t", "mailed"), ("c", "redeemed"), ("y", "bought")):
        np.testing.assert_array_equal(getattr(log, column), study.table[name])


def test_the_value_of_a_policy_needs_every_x():
    study = cf.simulated_features(100, seed=0)
    assert len(np.unique(study.point)) < 32
    with pytest.raises(InputError, match="all 32 values of x"):
        study.true_value(np.ones(100), "coupon", 0.4)
