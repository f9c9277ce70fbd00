"""Every parameter of every public function of policies and values is given every odd value in turn.

A call works, or is refused by an error of the library: nothing raises from inside another library. Values
that no parameter of that kind can mean must be refused.
"""

import datetime
import inspect
import warnings
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

import cfmtl_lib as cf
from cfmtl_lib import policy, value

N = 120
STUDY = cf.simulated_features(N, seed=1)
LOG, TRUTH, P = STUDY.log, STUDY.true_nuisances, STUDY.strata_probability
TREAT, SCORE, HALF = P[:, 3] > 0.15, P[:, 3] - 0.1, np.full(N, 0.5)
SCORES = cf.unit_scores(LOG, TRUTH)
LR = LogisticRegression()

ODD = {
    "None": None,
    "text": "a",
    "bytes": b"a",
    "NaN": float("nan"),
    "infinity": float("inf"),
    "-1": -1,
    "2**70": 2**70,
    "10**400": 10**400,
    "empty list": [],
    "empty dict": {},
    "set": {1, 2},
    "object": object(),
    "class": LogisticRegression,
    "function": len,
    "generator": np.random.default_rng(0),
    "complex": 1j,
    "Decimal NaN": Decimal("NaN"),
    "Decimal sNaN": Decimal("sNaN"),
    "date": datetime.datetime(2024, 1, 1),
    "duration": datetime.timedelta(1),
    "NaT": pd.NaT,
    "NA": pd.NA,
    "True": True,
    "ragged": [[1, 2], [3]],
    "two": [0.5, 0.5],
    "one too many": np.full(N + 1, 0.5),
    "two columns": np.full((N, 2), 0.5),
    "one column": pd.DataFrame({"a": HALF}),
    "masked": np.ma.masked_array(HALF, mask=np.arange(N) == 3),
    "other rows": pd.Series(HALF, index=np.arange(N) + 5),
    "Nones": [None] * N,
    "texts": ["x"] * N,
    "NaNs": np.full(N, np.nan),
    "infinities": np.full(N, np.inf),
    "complexes": np.full(N, 1j),
    "dates": np.full(N, np.datetime64("2024-01-01")),
    "objects": np.array([object()] * N),
    "integers": np.arange(N),
    "halves": HALF.astype(np.float16),
    "huge": np.full(N, 1e300),
}

LABELS = {"texts", "complexes", "dates", "objects", "integers", "halves", "huge", "infinities", "masked"}
MEANT: dict[str, set[str]] = {
    # What a parameter of each name can mean, among the odd values; the others have to be refused.
    "treat": {"halves"},
    "other": {"halves", "None", "integers"},
    "score": {"integers", "halves"},
    "reward": {
        "integers",
        "halves",
        "other rows",
        "two columns",
        "one column",
        "two",
        "empty list",
        "one too many",
    },
    "spend": {"integers", "halves", "two columns"},
    "outcome": {"integers", "halves", "other rows", "one too many", "two", "-1"},
    "means_untreated": {"integers", "halves"},
    "by": {"integers", "halves", "None"},
    "budgets": {"None"},
    "probability": {"halves", "other rows"},
    "happened": {"halves"},
    "propensity": {"halves", "other rows", "two", "one too many", "None"},
    "keep_untreated": {"halves"},
    "covariates": {"one column"},
    "cost": {"integers", "halves", "2**70"},
    "conversion_value": {"integers", "halves", "2**70", "None"},
    "money": {"2**70"},
    "budget": {"None"},
    "clusters": LABELS - {"masked"} | {"None"},
    "groups": LABELS - {"masked"} | {"None"},
    "block": LABELS - {"masked"} | {"None"},
    "arm": LABELS - {"masked"},
    "reference": {"None", "True"},
    "clip": {"None"},
    "nuisances": {"None"},
    "propensity_is_known": {"True"},
    "cross_fitted": {"True"},
    "index": {"None"},
    **{mean: {"halves"} for mean in TRUTH.means()},
    "outcome_treated": {"integers", "halves"},
    "outcome_untreated": {"integers", "halves"},
    "amounts": {"integers", "halves", "None"},
    "rho": {"-1"},
    "n_jobs": {"-1"},
    "generosity": {"2**70"},
    "only_positive": {"True"},
    "exclusion": {"True"},
    "monotonicity": {"True"},
    "means": {"None"},
}

EVALUATED = {"log": LOG, "nuisances": TRUTH, "clusters": None, "level": 0.95, "clip": None}
PRICED = {"scenario": "coupon", "cost": 0.4}
CURVE = EVALUATED | PRICED | {"budgets": [0, 0.5, 1], "n_bootstrap": 50, "n_jobs": 1}
CURVE |= {"by": "share", "only_positive": True, "seed": 0, "conversion_value": None}
MONEY = replace(LOG, outcome=SCORE)

CALLS = {
    "policy_value": (cf.policy_value, EVALUATED | PRICED | {"treat": TREAT, "conversion_value": None}),
    "policy_value_difference": (
        cf.policy_value_difference,
        EVALUATED | PRICED | {"treat": TREAT, "other": ~TREAT, "conversion_value": None},
    ),
    "strata_shares": (cf.strata_shares, EVALUATED),
    "budget_curve": (cf.budget_curve, CURVE | {"score": SCORE}),
    "budget_curve_difference": (cf.budget_curve_difference, CURVE | {"score": SCORE, "other": -SCORE}),
    "unit_scores": (cf.unit_scores, {"log": LOG, "nuisances": TRUTH, "clip": None}),
    "reward": (SCORES.reward, PRICED | {"conversion_value": None}),
    "spend": (SCORES.spend, PRICED),
    "treated_value": (
        value.treated_value,
        EVALUATED | PRICED | {"treat": TREAT, "other": None, "conversion_value": None},
    ),
    "treated_shares": (value.treated_shares, EVALUATED),
    "treated_scores": (value.treated_scores, {"log": LOG, "nuisances": TRUTH, "clip": None}),
    "treated_effect": (value.treated_effect, EVALUATED | {"outcome": LOG.y, "means_untreated": HALF}),
    "confounding_bound": (
        value.confounding_bound,
        EVALUATED | PRICED | {"treat": TREAT, "outcome_strength": 0.1, "treatment_strength": 0.1, "rho": 1.0},
    ),
    "reward_lower_bound": (
        value.reward_lower_bound,
        PRICED
        | {"treat": TREAT, "log": LOG, "nuisances": TRUTH, "least_propensity": 0.1, "confidence": 0.95}
        | {"n_policies": 1, "conversion_value": None},
    ),
    "share_ranges": (
        value.share_ranges,
        {"means": [0.6, 0.5, 0.7, 0.45], "exclusion": True, "monotonicity": True},
    ),
    "overlap": (value.overlap, {"log": LOG, "nuisances": TRUTH, "extreme": 0.05}),
    "balance": (value.balance, {"log": LOG, "nuisances": TRUTH, "covariates": pd.DataFrame(LOG.x)}),
    "negative_control": (value.negative_control, EVALUATED | {"outcome": SCORE, "means": None}),
    "propensity_calibration": (
        value.propensity_calibration,
        {"log": LOG, "nuisances": TRUTH, "by": None, "n_bins": 5},
    ),
    "check_implications": (
        value.check_implications,
        {"log": LOG, "nuisances": TRUTH, "groups": None, "n_groups": 3, "clusters": None, "clip": None},
    ),
    "calibration_curve": (
        value.calibration_curve,
        {"probability": HALF, "happened": LOG.y, "n_bins": 5},
    ),
    "arm_means": (
        value.arm_means,
        {"outcome": LOG.y, "arm": LOG.t, "block": None, "clusters": None, "reference": None, "level": 0.95},
    ),
    "complementary_thinning": (
        value.complementary_thinning,
        {"propensity": HALF, "keep_untreated": HALF},
    ),
    "LogNuisances": (
        cf.LogNuisances,
        dict.fromkeys(inspect.signature(cf.LogNuisances).parameters, HALF)
        | {"propensity_is_known": False, "cross_fitted": True, "index": None},
    ),
    "from_means": (cf.LogNuisances.from_means, {"propensity": HALF, "means": TRUTH.means()}),
    "clipped": (TRUTH.clipped, {"low": 0.1, "high": 0.9}),
    "allocate": (cf.allocate, {"reward": SCORE, "budget": 0.4, "ties": "random", "seed": 0}),
    "allocate, number": (cf.allocate, {"reward": SCORE, "number": 4}),
    "allocate, money": (cf.allocate, {"reward": SCORE, "money": 4, "spend": HALF}),
    "allocate_arms": (cf.allocate_arms, {"reward": np.column_stack([SCORE, HALF]), "number": 4, "seed": 0}),
    "allocate_arms, money": (
        cf.allocate_arms,
        {"reward": np.column_stack([SCORE, HALF]), "money": 4, "spend": np.column_stack([HALF, HALF])},
    ),
    "threshold_policy": (cf.threshold_policy, {"reward": SCORE, "budget": 0.4}),
    "treatable": (policy.treatable, {"n_pairs": 40, "budget": 0.4}),
    "expected_reward": (cf.expected_reward, PRICED | {"strata_probability": P, "conversion_value": 1.4}),
    "expected_spend": (cf.expected_spend, PRICED | {"strata_probability": P}),
    "stratum_rewards": (cf.stratum_rewards, PRICED),
    "count_outcomes": (cf.count_outcomes, PRICED | {"treat": TREAT, "stratum": STUDY.stratum}),
    "true_value": (
        STUDY.true_value,
        PRICED | {"treat": np.ones(N, dtype=bool), "conversion_value": None},
    ),
    "cell_calibration": (
        cf.cell_calibration,
        {"strata_probability": P, "log": LOG, "bins": 5, "clusters": None},
    ),
    "policy_value_scorer": (
        cf.policy_value_scorer,
        PRICED | {"budget": 0.4, "folds": 2, "conversion_value": None},
    ),
    "IncentiveLog, outcome": (
        lambda amounts: cf.IncentiveLog(LOG.x, LOG.t, LOG.c, LOG.y, outcome=amounts),
        {"amounts": SCORE},
    ),
    "winsorise": (cf.winsorise, {"log": MONEY, "share": 0.1}),
    "reward_lower_bound, money": (
        lambda outcome_range: value.reward_lower_bound(
            TREAT,
            MONEY,
            replace(TRUTH, outcome_treated=HALF, outcome_untreated=HALF),
            cost=0.4,
            least_propensity=0.1,
            outcome_range=outcome_range,
        ),
        {"outcome_range": (-50, 50)},
    ),
    "simulated_features": (cf.simulated_features, {"n": 100, "seed": 0}),
    "simulated_campaign": (
        cf.simulated_campaign,
        {"n": 100, "seed": 0, "generosity": 1.0, "missing": 0.05},
    ),
}
SLOW = {("nuisances", "None")}  # fits them
PARAMETERS = [(name, parameter) for name, (_, given) in CALLS.items() for parameter in given]


@pytest.mark.filterwarnings("ignore::cfmtl_lib.errors.UnitWarning")
@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_an_odd_value_is_meant_or_refused(name, parameter):
    call, given = CALLS[name]
    for odd, what in ODD.items():
        if (parameter, odd) in SLOW and name != "LogNuisances":
            continue
        try:
            call(**(given | {parameter: what}))
        except cf.InputError as error:
            assert error.expected and error.found, odd
        else:
            assert odd in MEANT.get(parameter, set()), f"{odd} was taken"


@pytest.mark.parametrize("name", CALLS)
def test_the_call_itself_works(name):
    call, given = CALLS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cf.UnitWarning)
        call(**given)


SETTINGS = [
    (kind, name) for kind in (cf.FitConfig, cf.FeatureConfig, cf.BoostedConfig) for name in vars(kind())
]


@pytest.mark.parametrize(("kind", "name"), SETTINGS, ids=lambda part: getattr(part, "__name__", part))
def test_an_odd_setting_is_meant_or_refused(kind, name):
    meant = {"True"} if isinstance(getattr(kind(), name), bool) else set()
    meant |= {"2**70"} if isinstance(getattr(kind(), name), float) else set()
    meant |= {"-1"} if name == "tolerance" else {"empty list"} if name == "hidden" else set()
    for odd, what in ODD.items():
        try:
            kind(**{name: what})
        except cf.InputError as error:
            assert error.expected and error.found, odd
        else:
            assert odd in meant, f"{odd} was taken"


@pytest.mark.parametrize("kind", ["CFMTL", "CFMTLv1", "CFDR"])
def test_an_odd_parameter_of_an_estimator_is_refused_before_any_fit(kind):
    """A learner that fails as soon as it is fitted stands for every fit."""

    class NeverFitted(LogisticRegression):
        def fit(self, x, y):
            raise AssertionError("an odd parameter came to a fit")

    learners = {"outcome": NeverFitted(), "propensity": NeverFitted()} if kind == "CFDR" else {}
    model = getattr(cf, kind)
    checked = {"seed", "folds", "propensity_clip", "weights", "propensity_weight", "propensity_floor"}
    checked |= {"progress", "frozen", "pretraining_propensity", "pretraining_outcome", "device"}
    for parameter in sorted(checked & set(inspect.signature(model).parameters)):
        for odd, what in ODD.items():
            if odd == "True" and parameter in ("progress", "frozen"):
                continue
            if odd == "2**70" and parameter == "propensity_weight":
                continue
            if odd == "None" and getattr(model(), parameter) is None:  # the default
                continue
            if kind == "CFDR" and parameter == "device":  # only networks have one
                continue
            with pytest.raises(cf.InputError):
                model(**(learners | {parameter: what})).fit(LOG)
                pytest.fail(f"{parameter}: {odd} was taken")


QUICK = cf.FeatureConfig(hidden=(2,), n_networks=1, fit=cf.FitConfig(max_epochs=1, patience=1))
LEARNERS = ["XLearner", "DRLearner", "CausalForest", "BART", "BCF", "TARNet", "CFR", "BNN", "PerfectMatch"]
LEARNERS += ["DragonNet", "DESCN", "ESMM", "MMoE", "MultiIPW", "ESCM2"]


@pytest.mark.parametrize("kind", LEARNERS)
def test_an_odd_parameter_of_a_learner_of_effects_is_refused(kind):
    """Values that a parameter can mean are fitted elsewhere; each of the others has to be refused."""
    model = getattr(cf, kind)
    given = {"config": QUICK} if "config" in inspect.signature(model).parameters else {}
    for name, default in model().get_params(deep=False).items():
        meant = {"True"} if name == "progress" else {"-1"} if name == "n_jobs" else set()
        meant |= {"None"} if default is None or name == "max_rows" else set()
        for odd, what in ODD.items():
            if odd in meant:
                continue
            with pytest.raises(cf.InputError) as caught:
                model(**(given | {name: what})).fit(LOG)
                pytest.fail(f"{name}: {odd} was taken")
            assert caught.value.expected and caught.value.found, (name, odd)
            assert str(caught.value).startswith(name), (odd, str(caught.value))
