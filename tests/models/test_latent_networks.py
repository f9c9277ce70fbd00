"""Latent strata: the loss by hand, compiled steps against autograd, and what a config refuses."""

import importlib.util

import numpy as np
import pytest
import torch

from cfmtl_lib.errors import InputError, LogError
from cfmtl_lib.models.latent_networks import ASSIGNMENTS, LatentConfig, LatentNetwork
from cfmtl_lib.models.training import derive_generator, minimise
from cfmtl_lib.strata import CELL_MEMBERSHIP, CELLS

CPU = torch.device("cpu")
N_USERS, N_ITEMS, N = 23, 17, 400
CASES = [
    ("given-x", {}),
    ("given-x", {"rank": 0, "assignment_products": False}),
    ("given-response", {}),
    ("given-response", {"rank": 130, "assignment_products": True}),
]
needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="needs the extra 'fast'")


def network(assignment, dtype=torch.float64, **settings):
    config = LatentConfig(**{"rank": 3, "epochs": 3, "steps": 7} | settings)
    made = LatentNetwork(
        N_USERS,
        N_ITEMS,
        config,
        assignment,
        n_rows=N,
        generator=derive_generator(0, "made", CPU),
        dtype=dtype,
    )
    with torch.no_grad():  # a start at 0 would hide terms
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=derive_generator(1, "far", CPU)) / 2)
        if not made.has_assignment_products:
            made.weight[-1] = 0
    return made


def rows():
    rng = np.random.default_rng(0)
    user, item = torch.tensor(rng.integers(0, N_USERS, N)), torch.tensor(rng.integers(0, N_ITEMS, N))
    return user, item, torch.tensor(rng.integers(0, 6, N).astype(np.int8))


@pytest.mark.parametrize("assignment, settings", CASES)
def test_the_loss_is_that_of_the_probabilities(assignment, settings):
    """The likelihood summed by hand over strata, from what the network predicts, plus the priors."""
    made = network(assignment, **settings)
    user, item, cell = rows()
    strata, treated = made.joint(np.stack([user, item], axis=1))
    np.testing.assert_allclose(strata.sum(axis=1), 1, atol=1e-12)
    in_arm = np.array([t for t, _, _ in CELLS])[cell]
    of_arm = np.where(in_arm[:, None] == 1, treated, 1 - treated)
    member = CELL_MEMBERSHIP[cell]
    rowwise = np.log((strata * of_arm * member).sum(axis=1))
    values = {name: value.detach().numpy() for name, value in made.named_parameters()}
    config = made.config
    precision = np.r_[[config.score_precision] * 2, config.assignment_precision]
    precision = np.r_[precision, [config.factor_precision] * config.rank]
    priors = (values["user"] ** 2 @ precision).sum() + (values["item"] ** 2 @ precision).sum()
    priors += config.weight_precision * (values["weight"] ** 2).sum()
    expected = -rowwise.mean() + priors / 2 / N
    assert made.loss(user, item, cell).item() == pytest.approx(expected, rel=1e-9)


def fit(engine, assignment, dtype=torch.float64, **settings):
    made = network(assignment, dtype, engine=engine, **settings)
    config = made.config
    history = minimise(
        made,
        made.loss,
        rows(),
        config.fit_config(N),
        generator=derive_generator(0, "batches", CPU),
        label="latent",
        schedule=config.schedule,
    )
    return history, [parameter.detach() for parameter in made.parameters()]


@needs_numba
@pytest.mark.parametrize("assignment, settings", CASES)
def test_compiled_steps_are_those_of_autograd(assignment, settings):
    plain, plain_parameters = fit("torch", assignment, **settings)
    history, parameters = fit("compiled", assignment, **settings)
    assert history.engine.startswith("compiled") and plain.engine.startswith("autograd")
    assert history.converged and history.n_epochs == 3
    np.testing.assert_allclose(history.loss, plain.loss, rtol=1e-9)
    for ours, theirs in zip(parameters, plain_parameters, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


@needs_numba
@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_compiled_steps_in_float32_agree_to_rounding(assignment):
    plain, plain_parameters = fit("torch", assignment, torch.float32)
    history, parameters = fit("compiled", assignment, torch.float32)
    np.testing.assert_allclose(history.loss, plain.loss, rtol=1e-5)
    for ours, theirs in zip(parameters, plain_parameters, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_coupon_and_always_buyers_share_an_assignment():
    """P(T=1 | z, x) under each assumption: one for all, or four, of which the last two strata have one."""
    x = np.stack([np.arange(10), np.arange(10)], axis=1)
    for assignment, different in (("given-x", 1), ("given-response", 4)):
        treated = network(assignment).joint(x)[1]
        assert all(len(set(row)) == different for row in treated.round(12))
        np.testing.assert_array_equal(treated[:, 3], treated[:, 4])


def test_a_config_refuses_what_is_out_of_range():
    for wrong in (
        {"rank": -1},
        {"rank": 2.0},
        {"factor_precision": -1.0},
        {"epochs": 0},
        {"engine": "data-parallel"},
        {"learning_rate": 0.0},
        {"assignment_products": 1},
    ):
        (name,) = wrong
        with pytest.raises(InputError, match=name):
            LatentConfig(**wrong)
    with pytest.raises(LogError, match="item"):
        network("given-x").predict("strata", [[0, N_ITEMS]])
