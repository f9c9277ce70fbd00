"""Methods by name: the ablations, the shared first stage, and uplift that pays on take-up."""

import dataclasses

import numpy as np
import pytest

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError, UnknownNameError
from cfmtl_lib.experiments.methods import ABLATIONS, NET_METHODS, TWINS, estimator, fit_methods

SMALL = cf.FitConfig(embedding_k=4, tolerance=1e-2, batch_size=200)


@pytest.fixture(scope="module")
def study():
    return cf.simulated(n_users=40, n_items=30, n_pairs=900)


def test_the_rows_of_tables_5_and_6_in_the_order_of_print():
    assert list(ABLATIONS) == [
        f"{method}{rest}"
        for method in ("CF-MTL", "CF-MTL-v1")
        for rest in (" w/o L_001 L_000", " w/o L_000", " w/o L_001", "")
    ]


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_sets_its_terms_to_zero_and_leaves_all_else(name):
    model, row = estimator(name), ABLATIONS[name]
    full = estimator(row.method)
    expected = dataclasses.asdict(full.weights)
    if "L_001" in name:
        expected["t0c0y1"] = 0
    if "L_000" in name:
        expected["t0c0y0"] = 0
    assert dataclasses.asdict(model.weights) == expected
    assert type(model) is type(full)
    assert model.get_params() | {"weights": None} == full.get_params() | {"weights": None}


def test_unknown_names_are_refused():
    with pytest.raises(UnknownNameError, match=r"method: expected one of .*'OR-net'.*found 'SVM'"):
        estimator("SVM")


def test_uplift_that_pays_on_take_up_is_the_joint_counterfactual_reward(study):
    """The identity behind the rows OR-net, IPS-net and DR-net: pair by pair, in both scenarios."""
    models = fit_methods(study, [*NET_METHODS, *TWINS], device="cpu")
    for name, base in TWINS.items():
        net = models[f"{base}-net"]
        kind = {"OR": cf.CFOR, "IPS": cf.CFIPS, "DR": cf.CFDR}[base]
        joint = kind(device="cpu").fit(study.train, nuisances=net.nuisances_)
        for scenario in cf.SCENARIOS:
            for cost in (0.0, 0.4, 1.0):
                reward = net.predict_reward(study.test.x, scenario, cost)
                np.testing.assert_allclose(
                    reward, joint.predict_reward(study.test.x, scenario, cost), atol=1e-9
                )
        coupon = net.predict_reward(study.test.x, "coupon", 0.4)
        assert np.abs(coupon - models[name].predict_reward(study.test.x, "coupon", 0.4)).max() > 1e-3


def test_the_net_reward_is_its_formula(study):
    model = estimator("OR-net", device="cpu").fit(study.train)
    mu1, mu0, kappa, tau = (
        model.predict_moment(study.test.x, name)
        for name in (
            "converted_treated",
            "converted_untreated",
            "collected_treated",
            "collected_and_converted_treated",
        )
    )
    for scenario, paid in (("coupon", tau), ("cash", kappa)):
        np.testing.assert_allclose(
            model.predict_reward(study.test.x, scenario, 0.3), 1.3 * (mu1 - mu0) - 0.3 * paid, atol=1e-12
        )
    with pytest.raises(UnknownNameError):
        model.predict_reward(study.test.x, "voucher", 0.4)
    with pytest.raises(InputError):
        model.predict_reward(study.test.x, "coupon", -1)


def two_stage(**options):
    return cf.CFMTLv1(
        config=SMALL, pretraining_propensity=SMALL, pretraining_outcome=SMALL, device="cpu", **options
    )


def test_a_shared_first_stage_changes_no_bit_and_is_not_trained_on(study):
    first = two_stage().pretrain(study.train)
    before = [p.detach().clone() for p in (*first.propensity.parameters(), *first.outcome.parameters())]
    weights = dataclasses.replace(cf.PAPER.two_stage_weights, t0c0y1=0)
    for options in ({}, {"weights": weights}, {"frozen": True}):
        alone, shared = (
            two_stage(**options).fit(study.train, **given) for given in ({}, {"pretrained": first})
        )
        np.testing.assert_array_equal(shared.predict_strata(study.test.x), alone.predict_strata(study.test.x))
        assert list(shared.histories_) == ["propensity", "outcome", "cells"]
    after = [*first.propensity.parameters(), *first.outcome.parameters()]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old.numpy(), new.detach().numpy())


def test_a_first_stage_of_another_log_or_other_settings_is_refused(study):
    first = two_stage().pretrain(study.train)
    other = cf.simulated(seed=1, n_users=40, n_items=30, n_pairs=900)
    with pytest.raises(InputError, match="pretrained: expected pre-training of this log"):
        two_stage().fit(other.train, pretrained=first)
    for change in (
        {"seed": 1},
        {"pretraining_outcome": dataclasses.replace(SMALL, learning_rate=0.02)},
        {"config": dataclasses.replace(SMALL, embedding_sd=0.5)},
    ):
        with pytest.raises(InputError, match="with the settings of this estimator"):
            two_stage().set_params(**change).fit(study.train, pretrained=first)


def test_fitted_together_as_fitted_alone(study):
    names = ["CF-MTL-v1 w/o L_000", "CF-MTL-v1", "CF-MTL w/o L_001", "Naive"]
    together = fit_methods(study, names, device="cpu", seed=2, n_jobs=2)
    assert list(together) == names
    for name in names:
        alone = estimator(name, device="cpu", seed=2).fit(study.train)
        np.testing.assert_array_equal(
            together[name].predict_reward(study.test.x, "coupon", 0.4),
            alone.predict_reward(study.test.x, "coupon", 0.4),
        )
