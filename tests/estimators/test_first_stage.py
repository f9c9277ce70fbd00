"""The first stage of CF-MTL-v1: what the second one starts from, trains on, or leaves as it is."""

import dataclasses

import numpy as np
import pytest
import torch

import cfmtl_lib as cf
from cfmtl_lib.estimators.cells.backend import held_out_rows

FIT = cf.FitConfig(embedding_k=4, tolerance=1e-2, batch_size=300)
PAIRS = {"config": FIT, "pretraining_propensity": FIT, "pretraining_outcome": FIT, "device": "cpu"}
FEATURES = cf.FeatureConfig(
    hidden=(4,), n_networks=2, fit=dataclasses.replace(FIT, learning_rate=0.05, validation_share=0.2)
)
OTHER_WEIGHTS = cf.CellWeights(1, 3, 1, 2, 5, 1)


@pytest.fixture(scope="module")
def log():
    return cf.simulated(n_users=40, n_items=30, n_pairs=1000).train


@pytest.fixture(scope="module")
def first(log):
    return cf.CFMTLv1(**PAIRS).pretrain(log)


def first_stage_of(first):
    return {
        "user": first.outcome.user,
        "item": first.outcome.item,
        **{f"propensity {name}": value for name, value in first.propensity.named_parameters()},
    }


@pytest.mark.parametrize("frozen", [True, False])
def test_all_of_the_first_stage_of_pairs_is_kept_if_frozen_and_trained_on_if_not(frozen, log, first):
    before = {name: value.detach().clone() for name, value in first_stage_of(first).items()}
    network = cf.CFMTLv1(**PAIRS, frozen=frozen).fit(log, pretrained=first).network_
    after = {
        "user": network.strata.user,
        "item": network.strata.item,
        **{f"propensity {name}": value for name, value in network.propensity.named_parameters()},
    }
    assert after.keys() == before.keys()
    for name, value in before.items():
        # What others may start from too is never trained itself.
        assert torch.equal(first_stage_of(first)[name], value), name
        assert torch.equal(after[name], value) == frozen, name


def test_the_second_stage_of_pairs_starts_from_the_first(log, first):
    """One epoch of tiny steps: parameters that are not those of the first stage would be far away."""
    still = dataclasses.replace(FIT, learning_rate=1e-6, patience=1)
    network = cf.CFMTLv1(**PAIRS | {"config": still}).fit(log, pretrained=first).network_
    for name in ("user", "item"):
        assert torch.allclose(getattr(network.strata, name), getattr(first.outcome, name), atol=1e-3), name
    for ours, theirs in zip(network.propensity.parameters(), first.propensity.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-3)


def test_the_second_stage_has_no_loss_of_the_propensity(log, first):
    assert cf.CFMTLv1(**PAIRS).fit(log, pretrained=first).network_.propensity_weight == 0


@pytest.fixture(scope="module")
def features():
    return cf.simulated_features(800, seed=3).log


def of_features(log, **options):
    return cf.CFMTLv1(config=FEATURES, device="cpu", **options).fit(log)


def bodies(model):
    return [
        torch.cat([part.flatten() for part in network.strata.body()]) for network in model.network_.networks
    ]


@pytest.mark.parametrize("frozen", [True, False])
def test_the_second_stage_of_features_trains_the_first_unless_it_is_frozen(frozen, features):
    """Its weights are all that differs: a first stage that is frozen cannot know them."""
    one, other = (of_features(features, frozen=frozen, **w) for w in ({}, {"weights": OTHER_WEIGHTS}))
    e, others_e = (model.predict_propensity(features.x) for model in (one, other))
    assert np.array_equal(e, others_e) == frozen
    for body, others_body in zip(bodies(one), bodies(other), strict=True):
        assert torch.equal(body, others_body) == frozen
    assert not np.array_equal(one.predict_strata(features.x), other.predict_strata(features.x))


def test_the_frozen_body_of_features_is_that_of_the_outcome(features):
    """Of two logs that differ in the outcome alone, so do the bodies; the propensities do not."""
    y = np.where((features.c == 1) & (features.x[:, 1] > 0), 1 - features.y, features.y)
    changed = cf.IncentiveLog(features.x, features.t, features.c, y)
    one, other = (of_features(log, frozen=True) for log in (features, changed))
    for body, others_body in zip(bodies(one), bodies(other), strict=True):
        assert not torch.equal(body, others_body)
    np.testing.assert_array_equal(one.predict_propensity(features.x), other.predict_propensity(features.x))


def test_validation_sets_differ_by_network_and_seed_and_hold_whole_clusters(features):
    first, *others = (held_out_rows(features, 0.2, *drawn) for drawn in ((0, 0), (0, 1), (1, 0)))
    assert first.sum() == 160
    assert not any(np.array_equal(first, other) for other in others)
    user = np.arange(800) // 4
    clustered = cf.IncentiveLog(features.x, features.t, features.c, features.y, cluster=user)
    held_out = held_out_rows(clustered, 0.2, 0, 0).reshape(200, 4)
    assert held_out.all(axis=1).sum() == held_out.any(axis=1).sum() == 40
