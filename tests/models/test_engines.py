"""The ways to take a step agree: compiled and data-parallel against the plain path."""

import importlib.util
import math

import numpy as np
import pytest
import torch

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError
from cfmtl_lib.models import engines, training
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.models.losses import CellNetwork, CellWeights
from cfmtl_lib.models.pair_networks import AdditiveNetwork, FactorizationNetwork
from cfmtl_lib.models.training import derive_generator, fit_probability, minimise, new_network, parametrised
from cfmtl_lib.protocol import PAPER

CPU = torch.device("cpu")
N_USERS, N_ITEMS, N = 43, 31, 1000
needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="needs the extra 'fast'")


def columns(kind, dtype=torch.float64):
    rng = np.random.default_rng(0)
    user, item = torch.tensor(rng.integers(0, N_USERS, N)), torch.tensor(rng.integers(0, N_ITEMS, N))
    if kind == "cells":
        return user, item, torch.tensor(rng.integers(0, 6, N).astype(np.int8))
    return user, item, torch.tensor(rng.random(N), dtype=dtype)


def network(kind, parametrisation, dtype=torch.float64, k=6):
    def additive(outputs, purpose):
        fresh = AdditiveNetwork(
            N_USERS, N_ITEMS, k, outputs, generator=derive_generator(0, purpose, CPU), dtype=dtype
        )
        return parametrised(fresh, FitConfig(parametrisation=parametrisation))

    if kind == "mf":
        return FactorizationNetwork(
            N_USERS, N_ITEMS, k, generator=derive_generator(0, "mf", CPU), dtype=dtype
        )
    if kind == "ncf":
        return additive(1, "ncf")
    return CellNetwork(
        additive(5, "strata"),
        additive(1, "propensity"),
        weights=CellWeights(5, 1, 2, 5, 3, 4),
        propensity_floor=0.3,
        propensity_weight=0.5,
    )


def fit(kind, engine, parametrisation="embeddings", dtype=torch.float64, k=6, **settings):
    """Losses of the epochs and the parameters of one fit."""
    config = FitConfig(
        engine=engine,
        parametrisation=parametrisation,
        **(
            {"batch_size": 96, "weight_decay": 1e-2, "max_epochs": 4, "tolerance": 0.0, "patience": 99}
            | settings
        ),
    )
    model = network(kind, parametrisation, dtype, k)
    generator = derive_generator(0, "batches", CPU)
    with pytest.warns(training.ConvergenceWarning):
        if kind == "cells":
            history = minimise(model, model.loss, columns(kind), config, generator=generator, label="cells")
        else:
            history = fit_probability(model, columns(kind, dtype), config, generator=generator, label=kind)
    return np.array(history.loss), [p.detach() for p in model.parameters()]


CASES = [
    (kind, parametrisation, loss)
    for kind, losses in (
        ("ncf", ("squared_error", "cross_entropy")),
        ("mf", ("squared_error", "cross_entropy")),
        ("cells", ("squared_error",)),
    )
    for parametrisation in (("embeddings",) if kind == "mf" else ("embeddings", "additive"))
    for loss in losses
]


@needs_numba
@pytest.mark.parametrize("keep_last_batch", [False, True])
@pytest.mark.parametrize("kind, parametrisation, loss", CASES)
def test_compiled_steps_are_those_of_autograd(kind, parametrisation, loss, keep_last_batch):
    more = {"loss": loss, "keep_last_batch": keep_last_batch, "learning_rate_decay": 0.9}
    plain, plain_parameters = fit(kind, "torch", parametrisation, **more)
    losses, parameters = fit(kind, "compiled", parametrisation, **more)
    np.testing.assert_allclose(losses, plain, rtol=1e-9)
    for ours, theirs in zip(parameters, plain_parameters, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


@needs_numba
@pytest.mark.parametrize("k", [1, 5, 7, 64])
def test_compiled_steps_know_every_length_of_embedding(k):
    for kind in ("ncf", "mf", "cells"):
        plain, _ = fit(kind, "torch", k=k)
        np.testing.assert_allclose(fit(kind, "compiled", k=k)[0], plain, rtol=1e-9)


@needs_numba
@pytest.mark.parametrize("kind", ["ncf", "mf", "cells"])
def test_compiled_steps_in_float32_agree_to_rounding(kind):
    plain, plain_parameters = fit(kind, "torch", dtype=torch.float32)
    losses, parameters = fit(kind, "compiled", dtype=torch.float32)
    np.testing.assert_allclose(losses, plain, rtol=1e-5)
    for ours, theirs in zip(parameters, plain_parameters, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@needs_numba
def test_a_term_of_weight_0_and_saturated_cells_stay_finite():
    """Probabilities of 0 and 1 inside the logs, as at the end of a long fit."""
    for engine in ("torch", "compiled"):
        model = network("cells", "additive", torch.float32)
        with torch.no_grad():
            model.strata.user.mul_(200)
            model.cell_weight[4] = 0
        config = FitConfig(
            engine=engine, parametrisation="additive", max_epochs=2, patience=99, batch_size=96
        )
        with pytest.warns(training.ConvergenceWarning):
            history = minimise(
                model,
                model.loss,
                columns("cells"),
                config,
                generator=derive_generator(0, "batches", CPU),
                label="cells",
            )
        assert all(map(math.isfinite, history.loss))
        assert all(torch.isfinite(p).all() for p in model.parameters())


def test_the_same_function_has_both_parametrisations():
    user, item, _ = columns("ncf")
    config = FitConfig(embedding_k=6)
    both = [
        new_network(
            AdditiveNetwork,
            (N_USERS, N_ITEMS),
            FitConfig(embedding_k=6, parametrisation=name),
            generator=derive_generator(0, "start", CPU),
            n_outputs=5,
        )
        for name in ("embeddings", "additive")
    ]
    torch.testing.assert_close(both[0](user, item), both[1](user, item), atol=1e-5, rtol=1e-5)
    trained = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in both]
    assert trained == [(N_USERS + N_ITEMS) * 6 + 5 * 13, (N_USERS + N_ITEMS) * 5 + 5]
    mf = new_network(
        FactorizationNetwork, (N_USERS, N_ITEMS), config, generator=derive_generator(0, "start", CPU)
    )
    assert parametrised(mf, FitConfig(parametrisation="additive")) is mf


@needs_numba
def test_auto_compiles_what_it_can_and_nothing_else(monkeypatch):
    auto = FitConfig()
    ncf, cells = network("ncf", "embeddings"), network("cells", "embeddings")
    loss = engines.ProbabilityLoss(ncf, "squared_error")
    compiled = [engines.steps_for(ncf, loss, auto), engines.steps_for(cells, cells.loss, auto)]
    assert all(isinstance(taken, engines.CompiledSteps) for taken in compiled)
    still, with_still_layer, with_still_bias = (network("ncf", "embeddings") for _ in range(3))
    still.user.requires_grad_(False)
    with_still_layer.weight.requires_grad_(False)
    with_still_bias.bias.requires_grad_(False)

    class Doubled(AdditiveNetwork):
        def forward(self, user, item):
            return 2 * super().forward(user, item)

    doubled = Doubled(N_USERS, N_ITEMS, 6, generator=derive_generator(0, "ncf", CPU))
    half = network("ncf", "embeddings", torch.bfloat16)
    for model, objective in (
        (ncf, lambda user, item, target: ncf(user, item).sum()),
        (ncf, engines.ProbabilityLoss(still, "squared_error")),
        *(
            (other, engines.ProbabilityLoss(other, "squared_error"))
            for other in (still, with_still_layer, with_still_bias, doubled, half)
        ),
    ):
        assert type(engines.steps_for(model, objective, auto)) is engines.AutogradSteps
        with pytest.raises(InputError, match=r"engine 'compiled': expected numba"):
            engines.steps_for(model, objective, FitConfig(engine="compiled"))
    assert type(engines.steps_for(ncf, loss, FitConfig(engine="torch"))) is engines.AutogradSteps
    monkeypatch.setattr(engines, "numba_version", lambda: None)
    assert type(engines.steps_for(ncf, loss, auto)) is engines.AutogradSteps
    with pytest.raises(InputError, match=r"found no numba\. Use engine='auto', or install numba"):
        engines.steps_for(ncf, loss, FitConfig(engine="compiled"))


@needs_numba
def test_adam_is_compiled_to_vector_instructions():
    """The kernel that the time goes into: a scalar one takes several times as long."""
    from cfmtl_lib.models import kernels

    one = np.float32(1)
    rate = kernels.Rate(*(one for _ in kernels.Rate._fields))
    row = np.ones(64, np.float32)
    fresh = kernels._adam.py_func
    as_kept = {name: kernels._adam.targetoptions[name] for name in ("nogil", "error_model", "fastmath")}
    function = importlib.import_module("numba").njit(**as_kept)(fresh)
    function(row.copy(), row.copy(), row.copy(), row.copy(), rate)
    code = function.inspect_llvm(function.signatures[0])
    assert "x float>" in code, "no vector of float in the compiled loop"


@pytest.mark.parametrize("method", ["CF-OR", "CF-MTL", "CF-MTL-v1"])
def test_additive_parameters_are_an_option_of_every_method(method, tmp_path):
    study = cf.simulated(n_users=60, n_items=50, n_pairs=3000, seed=1)
    config = FitConfig(embedding_k=4, tolerance=1e-2, batch_size=200, parametrisation="additive")
    model = {
        "CF-OR": cf.CFOR(config=config),
        "CF-MTL": cf.CFMTL(config=config),
        "CF-MTL-v1": cf.CFMTLv1(
            config=config,
            pretraining_propensity=config,
            pretraining_outcome=FitConfig(embedding_k=4, batch_size=200),
        ),
    }[method].fit(study.train)
    p = model.predict_strata(study.test.x)
    np.testing.assert_allclose(p.sum(1), 1)
    cf.save(model, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(cf.load(tmp_path / "model.safetensors").predict_strata(study.test.x), p)


def test_frozen_embeddings_and_additive_parameters_contradict_each_other():
    with pytest.raises(InputError, match=r"frozen: expected False with config\.parametrisation='additive'"):
        cf.CFMTLv1(frozen=True, config=FitConfig(parametrisation="additive")).fit(
            cf.simulated(n_users=30, n_items=30, n_pairs=500).train
        )


def test_the_published_settings_are_the_papers_parametrisation():
    configs = [PAPER.nuisance, PAPER.joint, PAPER.pretraining_propensity, PAPER.pretraining_outcome]
    assert {config.parametrisation for config in configs} == {"embeddings"}


@needs_numba
def test_the_loss_is_that_of_the_objective():
    losses = {}
    for engine in ("torch", "compiled"):
        model = network("ncf", "embeddings")
        with pytest.warns(training.ConvergenceWarning):
            losses[engine] = minimise(
                model,
                engines.ProbabilityLoss(model, "squared_error"),
                columns("ncf"),
                FitConfig(engine=engine, loss="cross_entropy", max_epochs=2, batch_size=96),
                generator=derive_generator(0, "batches", CPU),
                label="ncf",
            ).loss
    np.testing.assert_allclose(losses["compiled"], losses["torch"], rtol=1e-9)


@needs_numba
@pytest.mark.parametrize("ids, found", [([0, N_USERS], f"0 to {N_USERS}"), ([-1, 2], "-1 to 2")])
def test_compiled_loops_never_see_an_id_outside_the_tables(ids, found):
    model = network("ncf", "embeddings")
    taken = engines.CompiledSteps(model, engines.ProbabilityLoss(model, "squared_error"), FitConfig())
    target = torch.zeros(2, dtype=torch.float64)
    for dtype in (torch.int64, torch.int32):
        bad, good = torch.tensor(ids, dtype=dtype), torch.tensor([0, 1], dtype=dtype)
        with pytest.raises(InputError, match=f"user ids: expected 0 to {N_USERS - 1}, found {found}"):
            taken.prepared((bad, good, target))
        with pytest.raises(InputError, match=f"item ids: expected 0 to {N_ITEMS - 1}"):
            fit_probability(
                model,
                (good, bad, target),
                FitConfig(engine="compiled"),
                generator=derive_generator(0, "batches", CPU),
                label="bad ids",
            )


@needs_numba
def test_machine_code_is_kept_by_all_sources_that_go_into_it():
    """numba looks at one file only: CF-MTL's kernels would not notice a change of Adam."""
    from cfmtl_lib.models import cell_kernels, kernels

    for module in (kernels, cell_kernels):
        compiled = [value for value in vars(module).values() if hasattr(value, "py_func")]
        assert compiled and all(k.py_func.__qualname__.endswith(kernels.SOURCES) for k in compiled)
    assert len(kernels.SOURCES) == 12


@needs_numba
def test_logs_of_tiny_numbers_are_no_denormals():
    from cfmtl_lib.models import cell_kernels

    for dtype in (np.float32, np.float64):
        numbers = np.full(100, np.finfo(dtype).eps, dtype)
        expected = 100 * math.log(np.finfo(dtype).eps)
        assert cell_kernels._sum_of_logs(numbers) == pytest.approx(expected, rel=1e-12)
