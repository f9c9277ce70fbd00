"""Baselines and counterfactual estimators: interface, formulas, shared fits, and what they learn."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError, UnknownNameError
from cfmtl_lib.models.pair_networks import AdditiveNetwork, predict_probability
from cfmtl_lib.models.training import derive_generator, fit_probability
from cfmtl_lib.nuisances.moments import MOMENTS
from cfmtl_lib.strata import strata_from_moments

CPU = torch.device("cpu")
SMALL = cf.FitConfig(embedding_k=8, tolerance=1e-3, batch_size=500)
CLIP = (0.1, 0.9)
CATE = ("OR", "IPS", "DR")
COUNTERFACTUAL = ("CF-OR", "CF-IPS", "CF-DR", "CF-MTL", "CF-MTL-v1")
FAMILY = {"Naive": "OR", "OR": "OR", "IPS": "IPS", "DR": "DR", "CF-OR": "OR", "CF-IPS": "IPS", "CF-DR": "DR"}
COST = 0.3


def make(name, **settings):
    if name == "CF-MTL-v1":
        settings = {"pretraining_propensity": SMALL, "pretraining_outcome": SMALL} | settings
    return cf.METHODS[name](**({"config": SMALL, "device": "cpu"} | settings))


def share(log, **settings):
    return cf.PairNuisances(
        log, **({"config": SMALL, "propensity_clip": CLIP, "device": "cpu", "seed": 0} | settings)
    )


@pytest.fixture(scope="module")
def study():
    return cf.simulated(n_users=80, n_items=60, n_pairs=4000)


@pytest.fixture(scope="module")
def nuisances(study):
    return share(study.train)


@pytest.fixture(scope="module")
def fitted(study):
    """Every method, fitted alone."""
    return {name: make(name).fit(study.train) for name in cf.METHODS}


@pytest.fixture(scope="module")
def joint(study, nuisances):
    """The counterfactual estimators in joint form, on shared fits."""
    return {
        family: kind(config=SMALL).fit(study.train, nuisances=nuisances)
        for family, kind in (("OR", cf.CFOR), ("IPS", cf.CFIPS), ("DR", cf.CFDR))
    }


@pytest.mark.parametrize("name", cf.METHODS)
def test_interface_is_that_of_scikit_learn(name, study, fitted):
    model, x = fitted[name], study.test.x
    fresh = make(name)
    assert fresh.get_params().keys() == model.get_params().keys() >= {"config", "seed", "device", "progress"}
    assert {k: str(v) for k, v in fresh.get_params().items()} == {
        k: str(v) for k, v in model.get_params().items()
    }
    with pytest.raises(NotFittedError):
        fresh.predict_reward(x, "coupon", 0.4)
    learnt = vars(model).keys() - vars(fresh).keys()
    assert learnt and all(key.endswith("_") and not key.startswith("_") for key in learnt)
    assert fresh.set_params(seed=5) is fresh and fresh.seed == 5
    twin = clone(model)
    assert vars(twin).keys() == vars(fresh).keys()
    assert twin.fit(study.train) is twin
    for scenario in cf.SCENARIOS:
        reward = model.predict_reward(x, scenario, COST)
        assert reward.shape == (len(x),) and reward.dtype == np.float64 and np.isfinite(reward).all()
        assert reward.std() > 0.01
        np.testing.assert_array_equal(twin.predict_reward(x, scenario, COST), reward)


@pytest.mark.parametrize("name", cf.METHODS)
def test_another_seed_gives_another_fit(name, study, fitted):
    other = make(name, seed=1).fit(study.train)
    assert not np.array_equal(
        other.predict_reward(study.test.x, "coupon", 0.4),
        fitted[name].predict_reward(study.test.x, "coupon", 0.4),
    )


@pytest.mark.parametrize("name", cf.METHODS)
def test_predict_is_the_uplift_and_bad_arguments_are_refused(name, study, fitted):
    model, x = fitted[name], study.test.x
    np.testing.assert_array_equal(model.predict(x), model.predict_reward(x, "cash", 0.0))
    for arguments, message in (
        (("gift", 0.4), "'coupon', 'cash'"),
        (("cash", -1), "cost"),
        (("cash", None), "cost"),
    ):
        with pytest.raises(InputError, match=message):
            model.predict_reward(x, *arguments)


def test_strata_are_predicted_by_the_methods_that_identify_them(study, fitted):
    assert {name for name in cf.METHODS if hasattr(fitted[name], "predict_strata")} == set(COUNTERFACTUAL)
    for name in COUNTERFACTUAL:
        p = fitted[name].predict_strata(study.test.x)
        assert p.shape == (len(study.test), 5) and p.dtype == np.float64
        np.testing.assert_allclose(p.sum(1), 1, atol=1e-9)
        for scenario, weights in (("coupon", [0, 0, 0, 1, -COST]), ("cash", [0, 0, -COST, 1, -COST])):
            reward = fitted[name].predict_reward(study.test.x, scenario, COST)
            np.testing.assert_allclose(reward, p @ weights, atol=1e-9)
            np.testing.assert_array_equal(reward, cf.expected_reward(p, scenario, COST))


def test_naive_ranks_by_response(study, fitted):
    model, x = fitted["Naive"], study.test.x
    for scenario in cf.SCENARIOS:
        response = model.predict_moment(x, "converted_treated")
        np.testing.assert_allclose(model.predict_reward(x, scenario, COST), response - COST, atol=1e-9)
    assert set(model.moments_) == {"converted_treated"}


@pytest.mark.parametrize("name", CATE)
def test_cate_methods_rank_by_net_effect_in_both_scenarios(name, study, fitted):
    model, x = fitted[name], study.test.x
    uplift = model.predict_moment(x, "converted_treated") - model.predict_moment(x, "converted_untreated")
    np.testing.assert_allclose(model.predict_cate(x), uplift, atol=1e-9)
    for scenario in cf.SCENARIOS:
        np.testing.assert_allclose(
            model.predict_reward(x, scenario, COST), (1 + COST) * uplift - COST, atol=1e-9
        )


def test_a_moment_that_a_method_does_not_use_is_refused(study, fitted):
    with pytest.raises(InputError, match="moment: expected one of 'converted_treated', found"):
        fitted["Naive"].predict_moment(study.test.x, "collected_treated")


@pytest.mark.parametrize("family", CATE)
def test_joint_form_solves_the_cell_equations_with_its_own_moments(family, study, nuisances, joint):
    model, x = joint[family], study.test.x
    assert list(model.moments_) == list(MOMENTS)
    for name in MOMENTS:
        assert model.moments_[name] is nuisances.moment(family, name)
    mu1, mu0, kappa, tau = (model.predict_moment(x, name) for name in MOMENTS)
    p = model.predict_strata(x)
    equations = [p[:, 1] + p[:, 3] + p[:, 4], p[:, 1] + p[:, 4], p[:, 2:].sum(1), p[:, 3] + p[:, 4]]
    for left, right in zip(equations, (mu1, mu0, kappa, tau), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-9)
    np.testing.assert_allclose(p[:, 3], mu1 - mu0, atol=1e-9)
    for scenario, wasted in (("coupon", tau), ("cash", kappa)):
        net_value = (1 + COST) * (mu1 - mu0) - COST * wasted
        np.testing.assert_allclose(model.predict_reward(x, scenario, COST), net_value, atol=1e-9)


@pytest.mark.parametrize("name", ["CF-OR", "CF-IPS", "CF-DR"])
def test_product_form_is_that_of_the_authors_code(name, study, nuisances):
    model, x = make(name).fit(study.train, nuisances=nuisances), study.test.x
    assert model.cell_form == "product"
    assert set(model.moments_) == {"converted_treated", "converted_untreated", "collected_treated"}
    for moment in ("converted_treated", "converted_untreated"):
        assert model.moments_[moment] is nuisances.moment(FAMILY[name], moment)
    assert model.moments_["collected_treated"] is nuisances.moment("OR", "collected_treated")
    y1, y0, c1 = (
        model.predict_moment(x, m) for m in ("converted_treated", "converted_untreated", "collected_treated")
    )
    always = y0 - (1 - c1) * y1
    listed = [(1 - c1) * (1 - y1), (1 - c1) * y1, c1 * (1 - y1), c1 * y1 - always, always]
    np.testing.assert_allclose(model.predict_strata(x), np.stack(listed, axis=1), atol=1e-9)


def test_the_two_forms_agree_on_coupon_buyers_and_differ_elsewhere(study, nuisances, joint):
    product = make("CF-OR").fit(study.train, nuisances=nuisances).predict_strata(study.test.x)
    p = joint["OR"].predict_strata(study.test.x)
    np.testing.assert_allclose(product[:, 3], p[:, 3], atol=1e-9)
    assert (np.abs(product - p).mean(0)[[0, 1, 2, 4]] > 0.01).all()


def test_predictions_are_those_of_the_form_that_was_fitted(study, nuisances):
    for form, other in (("joint", "product"), ("product", "joint")):
        model = cf.CFOR(config=SMALL, cell_form=form).fit(study.train, nuisances=nuisances)
        before = model.predict_strata(study.test.x)
        model.set_params(cell_form=other)
        np.testing.assert_array_equal(model.predict_strata(study.test.x), before)


def test_joint_is_the_default_and_another_form_is_refused_before_any_fit(study):
    assert cf.CFOR().cell_form == cf.CFIPS().cell_form == cf.CFDR().cell_form == "joint"
    nothing_yet = share(study.train)
    with pytest.raises(InputError, match="cell_form: expected one of 'joint', 'product', found 'both'"):
        cf.CFDR(config=SMALL, cell_form="both").fit(study.train, nuisances=nothing_yet)
    assert nothing_yet.histories == {}


@pytest.mark.parametrize("order", [1, -1])
def test_sharing_fits_in_any_order_changes_nothing(order, study, fitted):
    shared = share(study.train)
    for name in list(FAMILY)[::order]:
        model = make(name).fit(study.train, nuisances=shared)
        assert model.nuisances_ is shared
        np.testing.assert_array_equal(
            model.predict_reward(study.test.x, "cash", 0.4),
            fitted[name].predict_reward(study.test.x, "cash", 0.4),
        )
    # 2 moments in 3 ways, take-up by regression, propensity: each once.
    assert len(shared.histories) == 8


def test_each_moment_is_fitted_once(study, monkeypatch):
    labels = []
    real = fit_probability

    def counted(*arguments, label, **options):
        labels.append(label)
        return real(*arguments, label=label, **options)

    monkeypatch.setattr("cfmtl_lib.nuisances.pair_nuisances.fit_probability", counted)
    shared = share(study.train)
    for kind in (cf.CFDR, cf.CFIPS, cf.CFOR, cf.CFDR):
        kind(config=SMALL).fit(study.train, nuisances=shared)
    assert sorted(labels) == sorted(["propensity", *(f"{f} {m}" for f in CATE for m in MOMENTS)])
    assert set(shared.histories) == set(labels)


@pytest.mark.parametrize(
    "change",
    [
        {"config": cf.FitConfig(embedding_k=8, tolerance=1e-3, batch_size=501)},
        {"seed": 1},
        {"propensity_clip": (0.2, 0.9)},
    ],
)
def test_shared_fits_with_other_settings_are_refused(change, study):
    with pytest.raises(InputError, match=r"nuisances: expected fits with .* settings of the estimator"):
        make("IPS").fit(study.train, nuisances=share(study.train, **change))
    make("IPS", propensity_clip=list(CLIP)).fit(study.train, nuisances=share(study.train))


def test_shared_fits_of_another_log_are_refused(study):
    twin = cf.simulated(n_users=80, n_items=60, n_pairs=4000)
    with pytest.raises(InputError, match="nuisances: expected fits of this log, found fits of another log"):
        make("OR").fit(study.train, nuisances=share(twin.train))


def test_propensity_is_clipped(study, nuisances):
    raw = predict_probability(nuisances.propensity_network(), study.train.x)
    tight = share(study.train, propensity_clip=(0.4, 0.6))
    for fits, (low, high) in ((nuisances, CLIP), (tight, (0.4, 0.6))):
        np.testing.assert_array_equal(fits.propensity(), np.clip(raw, low, high))
    assert tight.propensity().min() == 0.4 and tight.propensity().max() == 0.6
    assert abs(raw.mean() - study.train.t.mean()) < 0.05


@pytest.mark.parametrize(
    "clip", [(0, 0.9), (0.9, 0.1), (0.1, 1.0), (0.1, 1.1), (0.5, 0.5), (float("nan"), 0.9)]
)
def test_bad_clips_are_refused(clip, study):
    with pytest.raises(InputError, match="propensity_clip: expected 0 < low < high < 1"):
        cf.IPS(config=SMALL, propensity_clip=clip).fit(study.train)


OUTCOMES = {
    "converted_treated": (1, lambda log: log.y),
    "converted_untreated": (0, lambda log: log.y),
    "collected_treated": (1, lambda log: log.c),
    "collected_and_converted_treated": (1, lambda log: log.c & log.y),
}


@pytest.mark.parametrize("name", OUTCOMES)
@pytest.mark.parametrize("family", CATE)
def test_each_moment_is_the_fit_to_its_target(family, name, study, nuisances):
    log, (arm, outcome_of) = study.train, OUTCOMES[name]
    z = outcome_of(log).astype(float)
    in_arm = log.t == arm
    e = nuisances.propensity()
    weight = in_arm / (e if arm == 1 else 1 - e)
    rows = np.flatnonzero(in_arm) if family == "OR" else np.arange(len(log))
    if family == "OR":
        target = z
    elif family == "IPS":
        target = weight * z
    else:
        m = predict_probability(nuisances.moment("OR", name), log.x)
        target = m + weight * (z - m)
        # Pseudo-outcomes correct the regression where the arm was seen, and nowhere else.
        np.testing.assert_array_equal(target[~in_arm], m[~in_arm])
    generator = derive_generator(0, f"{family} {name}", CPU)
    network = AdditiveNetwork(80, 60, 8, generator=generator)
    user, item = (torch.tensor(column, dtype=torch.int32) for column in log.x[rows].T)
    fit_probability(
        network,
        (user, item, torch.tensor(target[rows].astype(np.float32))),
        SMALL,
        generator=generator,
        label="by hand",
    )
    for ours, theirs in zip(nuisances.moment(family, name).parameters(), network.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def trial(labelling):
    """A randomised study whose scores are additive, and fits to it."""
    study = cf.simulated(labelling, n_users=150, n_items=150, n_pairs=20_000, overlap=1e6, low_rank=0)
    return study, share(study.train)


@pytest.fixture(scope="module")
def code():
    return trial("code")


@pytest.fixture(scope="module")
def text():
    """Under this rule each moment varies a good deal with the affinity."""
    return trial("text")


FITTING = 0.02
"""A network stopped at a tolerance of 1e-3 does not reproduce the means of its targets exactly."""


@pytest.mark.parametrize("family", CATE)
def test_means_of_the_moments_are_right_where_treatment_is_randomised(family, text):
    study, fits = text
    p = study.test.strata_probability
    truths = strata_moments(p)
    for name, truth in truths.items():
        arm = OUTCOMES[name][0]
        # An inverse-propensity weighted mean has variance E[Z]/P(arm) - E[Z]^2; the others have less.
        n, arm_share, mean = len(study.train), (study.train.t == arm).mean(), truth.mean()
        se = ((mean / arm_share - mean**2) / n) ** 0.5
        estimate = predict_probability(fits.moment(family, name), study.test.x)
        assert abs(estimate.mean() - mean) <= 3 * se + FITTING, name
        assert np.corrcoef(estimate, truth)[0, 1] > 0.6, name


def strata_moments(p):
    return {
        "converted_treated": p[:, 1] + p[:, 3] + p[:, 4],
        "converted_untreated": p[:, 1] + p[:, 4],
        "collected_treated": p[:, 2] + p[:, 3] + p[:, 4],
        "collected_and_converted_treated": p[:, 3] + p[:, 4],
    }


def test_true_moments_give_back_the_true_strata(code):
    p = code[0].test.strata_probability
    np.testing.assert_allclose(strata_from_moments(**strata_moments(p)), p, atol=1e-9)


@pytest.mark.parametrize("family, kind", [("OR", cf.CFOR), ("IPS", cf.CFIPS), ("DR", cf.CFDR)])
def test_joint_form_is_nearer_to_the_truth_than_product_form(family, kind, code):
    study, fits = code
    truth = study.test.strata_probability
    error = {}
    for form in ("joint", "product"):
        p = kind(config=SMALL, cell_form=form).fit(study.train, nuisances=fits).predict_strata(study.test.x)
        error[form] = np.abs(p[:, 3:].sum(1) - truth[:, 3:].sum(1)).mean()
    assert error["joint"] < 0.9 * error["product"]
    # And not for lack of data: the product of the true moments is wrong too.
    exact = strata_moments(truth)
    product = exact["collected_treated"] * exact["converted_treated"]
    assert np.abs(product - exact["collected_and_converted_treated"]).mean() > 0.05


@pytest.mark.parametrize(("family", "moment"), [("AIPW", "converted_treated"), ("OR", "bought")])
def test_unknown_families_and_moments_are_refused(family, moment, study):
    nuisances = cf.PairNuisances(study.train, config=cf.PAPER.nuisance, propensity_clip=(0.1, 0.9))
    with pytest.raises(UnknownNameError):
        nuisances.moment(family, moment)
