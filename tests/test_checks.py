"""Checks of arguments: what they accept, in which type, and what they refuse."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

import cfmtl_lib as cf
from cfmtl_lib import checks
from cfmtl_lib.datasets.case_studies.complete_journey import simulated_mailing
from cfmtl_lib.datasets.case_studies.thornton import simulated_cash_trial
from cfmtl_lib.datasets.loading import load_study

NO_SEEDS = [None, -1, 2**32, 1.0, True, "0", np.random.RandomState(0), np.random.default_rng(0), [0], np.nan]


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, np.int64(7), np.uint8(7), np.array(7)])
def test_whole_numbers_are_seeds(seed):
    found = checks.check_seed(seed)
    assert type(found) is int and found == int(seed)


@pytest.mark.parametrize("seed", NO_SEEDS, ids=lambda seed: repr(seed).split(" at ")[0])
def test_anything_else_is_no_seed(seed):
    with pytest.raises(cf.InputError, match=r"seed: expected a whole number from 0 to 4294967295, found"):
        checks.check_seed(seed)


def test_a_generator_is_refused_with_the_draw_that_makes_a_seed():
    with pytest.raises(cf.InputError, match=r"seed=int\(rng\.integers"):
        checks.check_seed(np.random.default_rng(0))


LOG = cf.simulated_features(200).log
PAIRS = cf.simulated(n_users=20, n_items=20, n_pairs=300).train
SEEDED = {
    "simulated": lambda seed: cf.simulated(seed=seed),
    "simulated_features": lambda seed: cf.simulated_features(200, seed),
    "simulated_campaign": lambda seed: cf.simulated_campaign(200, seed),
    "simulated_cash_trial": lambda seed: simulated_cash_trial(10, seed),
    "simulated_mailing": lambda seed: simulated_mailing(60, seed),
    "load_ratings": lambda seed: cf.load_ratings("ml-1m", download=False, seed=seed),
    "load_study": lambda seed: load_study("simulated", seed=seed),
    "crossfit": lambda seed: cf.crossfit(LOG, seed=seed),
    "crossfit of pairs": lambda seed: cf.crossfit(PAIRS, seed=seed),
    "budget_curve": lambda seed: cf.budget_curve(LOG.t * 1.0, LOG, cost=0.4, seed=seed),
    "compare_models": lambda seed: cf.compare_models(LOG, {"Naive": cf.Naive()}, cost=0.4, seed=seed),
    "fit_methods": lambda seed: cf.fit_methods(None, ["OR"], seed=seed),
    "PairNuisances": lambda seed: cf.PairNuisances(
        PAIRS, config=cf.FitConfig(), propensity_clip=(0.1, 0.9), seed=seed
    ),
    "PairClassifier": lambda seed: cf.PairClassifier(seed=seed).fit(PAIRS.x, PAIRS.t),
} | {
    f"{name} on {kind}": lambda seed, name=name, log=log: getattr(cf, name)(seed=seed).fit(log)
    for name in ("CFMTL", "CFMTLv1", "OR", "CFDR", "Naive", "DRNet")
    for kind, log in (("features", LOG), ("pairs", PAIRS))
}


@pytest.mark.parametrize(
    "seed", [None, -1, 1.0, np.random.RandomState(0)], ids=["None", "-1", "1.0", "state"]
)
@pytest.mark.parametrize("name", SEEDED)
def test_everything_that_takes_a_seed_checks_it(name, seed):
    with pytest.raises(cf.InputError, match=r"^seed: expected a whole number"):
        SEEDED[name](seed)


@pytest.mark.parametrize("count", [5, np.int8(5), np.array(5)])
def test_integers_are_counts(count):
    assert checks.check_count(count, "folds", least=5, most=5) == 5


@pytest.mark.parametrize("count", [5.0, True, "5", None, np.nan, [5], np.array([5]), 4, 7], ids=repr)
def test_anything_else_is_no_count(count):
    with pytest.raises(cf.InputError, match=r"folds: expected a whole number from 5 to 6, found"):
        checks.check_count(count, "folds", least=5, most=6)


@pytest.mark.parametrize("number", [0.5, np.float32(0.5), np.array(0.5), Decimal("0.5"), Fraction(1, 2)])
def test_real_numbers_are_numbers(number):
    assert checks.check_number(number, "cost", low=0.5, high=0.5) == 0.5


@pytest.mark.parametrize(
    "number",
    [
        True,
        np.True_,
        "0.5",
        0.5 + 0j,
        None,
        np.nan,
        np.inf,
        2**70 * 10**400,
        [0.5],
        np.ma.masked,
        Decimal("sNaN"),
        pd.NA,
    ],
    ids=repr,
)
def test_anything_else_is_no_number(number):
    with pytest.raises(cf.InputError, match="cost: expected a finite number >= 0, found"):
        checks.check_number(number, "cost", low=0)


def test_bounds_are_named_with_their_brackets():
    with pytest.raises(cf.InputError, match=r"expected a number in \(0, 1\], found 0"):
        checks.check_number(0, "share", low=0, high=1, low_open=True)
    assert checks.check_number(1, "share", low=0, high=1, low_open=True) == 1.0


def test_a_level_in_percent_is_refused_with_the_share():
    with pytest.raises(
        cf.InputError, match=r"level: expected a number in \(0, 1\), found 95. Pass 0.95 for 95 %"
    ):
        checks.check_level(95)


def test_flags_are_booleans_only():
    assert checks.check_flag(np.True_, "frozen") is True
    with pytest.raises(cf.InputError, match="frozen: expected True or False, found 'no'"):
        checks.check_flag("no", "frozen")


def test_learners_that_pairs_would_not_use_are_refused():
    from sklearn.linear_model import LogisticRegression

    with pytest.raises(cf.InputError, match=r"propensity: expected none beside the paper's networks"):
        cf.DR(propensity=LogisticRegression()).fit(PAIRS)
