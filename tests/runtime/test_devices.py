"""Everything is created on the device that was asked for, without an accelerator to try it on.

Two directions. With "meta" as torch's default device, whatever is created without ``device=`` ends up
there, so that a fit on the CPU breaks or changes. With "meta" as the device asked for, whatever is
created on a fixed device stays behind, and every operation is checked for tensors of two devices.
"""

import importlib
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import cfmtl_lib as cf
from cfmtl_lib.errors import UnknownNameError
from cfmtl_lib.models.pair_networks import AdditiveNetwork, FactorizationNetwork, predict_probability
from cfmtl_lib.models.training import derive_generator, fit_probability
from cfmtl_lib.protocol import ConstructionFits, Protocol
from cfmtl_lib.runtime.devices import resolve_device

SMALL = cf.FitConfig(embedding_k=4, tolerance=1e-2, batch_size=200)
NETWORK = cf.FeatureConfig(hidden=(4,), n_networks=1, fit=SMALL)
PAIR_FITS = ConstructionFits(labelling=SMALL, assignment=SMALL)
PROTOCOL = Protocol(construction={"authors": PAIR_FITS, "document": PAIR_FITS})
ESTIMATORS = {
    "Naive": lambda **where: cf.Naive(config=SMALL, **where),
    "CF-OR": lambda **where: cf.CFOR(config=SMALL, **where),
    "CF-DR": lambda **where: cf.CFDR(config=SMALL, **where),
    "CF-MTL": lambda **where: cf.CFMTL(config=SMALL, **where),
    "CF-MTL-v1": lambda **where: cf.CFMTLv1(
        config=SMALL, pretraining_propensity=SMALL, pretraining_outcome=SMALL, **where
    ),
    "CF-MTL-v1 frozen": lambda **where: cf.CFMTLv1(
        config=SMALL, pretraining_propensity=SMALL, pretraining_outcome=SMALL, frozen=True, **where
    ),
    "ESCM2": lambda **where: cf.ESCM2(config=SMALL, width=4, **where),
    "CFR": lambda **where: cf.CFR(config=NETWORK, width=4, **where),
    "PM": lambda **where: cf.PerfectMatch(config=NETWORK, width=4, **where),
    "DragonNet": lambda **where: cf.DragonNet(config=NETWORK, width=4, **where),
    "MMoE": lambda **where: cf.MMoE(config=SMALL, width=4, n_experts=2, **where),
    "latent strata": lambda **where: cf.LatentStrata(
        config=cf.LatentConfig(rank=2, epochs=2, steps=3), starts=2, **where
    ),
}


@pytest.fixture(scope="module")
def study():
    return cf.simulated(n_users=40, n_items=30, n_pairs=800)


@pytest.fixture(scope="module")
def ratings():
    rng = np.random.default_rng(0)
    user, item = np.divmod(rng.choice(1200, 400, replace=False), 30)
    return cf.Ratings(user, item, rng.integers(1, 6, 400), n_users=40, n_items=30)


@pytest.fixture
def everywhere_else():
    """Tensors created without ``device=`` hold no data."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


# Fitted before the default device is changed: pytest makes fixtures of a wider scope first.
@pytest.fixture(scope="module")
def on_cpu(study, ratings):
    found = {
        name: make(device="cpu").fit(study.train).predict_reward(study.test.x, "coupon", 0.4)
        for name, make in ESTIMATORS.items()
    }
    made = cf.semisynthetic(ratings, device="cpu", protocol=PROTOCOL)
    return found | {"semisynthetic": made}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_fits_on_the_cpu_do_not_depend_on_the_default_device(name, study, on_cpu, everywhere_else):
    assert torch.empty(1).is_meta
    model = ESTIMATORS[name](device="cpu").fit(study.train)
    np.testing.assert_array_equal(model.predict_reward(study.test.x, "coupon", 0.4), on_cpu[name])


def test_construction_on_the_cpu_does_not_depend_on_the_default_device(ratings, on_cpu, everywhere_else):
    made, before = cf.semisynthetic(ratings, device="cpu", protocol=PROTOCOL), on_cpu["semisynthetic"]
    for name in ("x", "t", "c", "y", "propensity"):
        np.testing.assert_array_equal(getattr(made.train, name), getattr(before.train, name))
    np.testing.assert_array_equal(made.test.stratum, before.test.stratum)


class Generator(torch.Generator):
    """Says that it lives on the meta device, for which torch has no generators."""

    def __new__(cls, device=None):
        assert torch.device(device).type == "meta", device
        return super().__new__(cls, device="cpu")

    @property
    def device(self):
        return torch.device("meta")


class OneDevice(TorchDispatchMode):
    """Fails at the first operation that mixes devices (numbers may come from the CPU)."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        leaves = tree_leaves((args, kwargs or {}))
        kinds = {leaf.device.type for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.ndim}
        assert len(kinds) <= 1, f"{func} on {kinds}"
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return False  # meta tensors have no values: targets count as valid
        return func(*args, **(kwargs or {}))


@pytest.fixture
def on_meta(monkeypatch):
    """Whole fits on the meta device: losses all count as 1, so each fit stops after eight epochs.

    Yields the list of fits that have started.
    """
    started = []
    training = importlib.import_module("cfmtl_lib.models.training")
    real = training.minimise

    def checked(network, objective, columns, config, *, generator, label, **options):
        tensors = [*network.parameters(), *network.buffers(), *columns]
        assert {tensor.device.type for tensor in tensors} == {generator.device.type} == {"meta"}, label
        started.append(label)
        history = real(network, objective, columns, config, generator=generator, label=label, **options)
        assert all(p.grad is None or p.grad.is_meta for p in network.parameters())
        assert any(p.grad is not None for p in network.parameters())
        return history

    in_estimators = ("cells.pair_cells", "cells.feature_cells", "network_fits", "latent_strata")
    for name in ("models.training", *(f"estimators.{module}" for module in in_estimators)):
        monkeypatch.setattr(f"cfmtl_lib.{name}.minimise", checked)
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: [1.0] * len(self))
    plain = torch.Tensor.cpu
    monkeypatch.setattr(
        torch.Tensor,
        "cpu",
        lambda self: torch.zeros(self.shape, dtype=self.dtype) if self.is_meta else plain(self),
    )
    with OneDevice():
        yield started


@pytest.mark.parametrize(
    "name, fits",
    [
        *(("Naive", 1), ("CF-OR", 4), ("CF-DR", 9)),
        *(("CF-MTL", 1), ("CF-MTL-v1", 3), ("CF-MTL-v1 frozen", 3)),
        *(("ESCM2", 1), ("MMoE", 1), ("CFR", 1), ("PM", 2), ("DragonNet", 1)),
        ("latent strata", 2),
    ],
)
def test_fits_on_another_device_keep_everything_there(name, fits, study, on_meta):
    model = ESTIMATORS[name](device="meta").fit(study.train)
    assert len(on_meta) == fits
    assert model.predict_reward(study.test.x, "coupon", 0.4).shape == (len(study.test),)


@pytest.mark.parametrize("name, fits", [("CF-MTL", 2), ("CF-MTL-v1", 6), ("CF-MTL-v1 frozen", 6)])
def test_fits_to_features_on_another_device_keep_everything_there(name, fits, on_meta):
    log = cf.simulated_campaign(300).log()
    quick = replace(cf.FeatureConfig().fit, max_epochs=1)
    model = ESTIMATORS[name](device="meta").set_params(
        config=cf.FeatureConfig(hidden=(4,), n_networks=2, fit=quick)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(log)
    assert len(on_meta) == fits
    assert model.predict_strata(log).tolist() == [[0.2] * 5] * 300
    assert model.predict_propensity(log).tolist() == [0.5] * 300


def test_construction_on_another_device_keeps_everything_there(ratings, on_meta):
    made = cf.semisynthetic(ratings, device="meta", protocol=PROTOCOL)
    assert len(on_meta) == 2
    np.testing.assert_array_equal(made.train.propensity, 0.5)


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize("kind", [AdditiveNetwork, FactorizationNetwork])
def test_both_networks_train_and_predict_on_another_device(kind, loss, on_meta):
    meta = torch.device("meta")
    network = kind(7, 5, 3, generator=derive_generator(0, "test", meta))
    user, item = (torch.zeros(20, dtype=torch.int32, device=meta) for _ in range(2))
    config = cf.FitConfig(loss=loss, embedding_k=3, batch_size=8)
    target = torch.zeros(20, device=meta)
    fit_probability(
        network, (user, item, target), config, generator=derive_generator(0, "b", meta), label="fit"
    )
    assert predict_probability(network, [[0, 0], [6, 4]]).tolist() == [0.5, 0.5]


def test_the_checks_notice_two_devices():
    here, there = torch.zeros(3, dtype=torch.int64), torch.zeros(3, device="meta")
    there.index_select(0, here)  # torch itself does not mind
    with OneDevice(), pytest.raises(AssertionError, match=r"index_select.* on "):
        there.index_select(0, here)


def test_auto_takes_cuda_where_there_is_cuda(monkeypatch):
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert resolve_device() == resolve_device("auto") == torch.device(expected)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert resolve_device("cpu") == torch.device("cpu")


def test_a_torch_device_is_taken_as_it_is():
    device = torch.device("cuda", 3)
    assert resolve_device(device) is device


@pytest.mark.parametrize("device", ["gpu", "", "CPU", "auto:1", None, 0, "cpu:x"])
def test_unknown_devices_are_refused(device):
    with pytest.raises(UnknownNameError, match="device: expected"):
        resolve_device(device)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "xpu"])
def test_devices_that_this_machine_lacks_are_refused(device, monkeypatch):
    for backend in (torch.cuda, torch.backends.mps, torch.xpu):
        monkeypatch.setattr(backend, "is_available", lambda: False)
    kind = device.split(":")[0].upper()
    with pytest.raises(UnknownNameError, match=f"torch sees no {kind} device. Use device='auto'"):
        resolve_device(device)
