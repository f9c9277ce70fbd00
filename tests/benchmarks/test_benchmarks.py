import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import cfmtl_lib as cf
from cfmtl_lib.experiments.methods import METHODS
from cfmtl_lib.models.losses import CellNetwork
from cfmtl_lib.models.pair_networks import AdditiveNetwork, FactorizationNetwork
from cfmtl_lib.models.training import derive_generator, fit_probability
from cfmtl_lib.protocol import ConstructionFits
from cfmtl_lib.runtime.provenance import load_results
from cfmtl_lib.strata import strata_from_moments

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import gpu
import measuring
import reference_loop as plain
import same_results
import scaling
import stages
import table4_speed
import time_to_reward

CPU = torch.device("cpu")
N_USERS, N_ITEMS, K, N = 11, 9, 4, 400


def additive(outputs=1, purpose="test"):
    generator = derive_generator(0, purpose, CPU)
    return AdditiveNetwork(N_USERS, N_ITEMS, K, outputs, generator=generator, dtype=torch.float64)


def factorisation():
    return FactorizationNetwork(
        N_USERS, N_ITEMS, K, generator=derive_generator(0, "test", CPU), dtype=torch.float64
    )


def copied(network):
    """The reference's form of a network of the library, with the same parameters."""
    sizes = (network.n_users, network.n_items, network.embedding_k)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        if isinstance(network, AdditiveNetwork):
            twin = plain.PlainNCF(*sizes, n_outputs=len(network.bias)).double()
            twin.linear.weight.copy_(network.weight)
            twin.linear.bias.copy_(network.bias)
        else:
            twin = plain.PlainMF(*sizes).double()
        twin.user.weight.copy_(network.user)
        twin.item.weight.copy_(network.item)
    return twin


def gradients(loss, network):
    """By shape and order of the library: user, item, then weight and bias if there are any."""
    return torch.autograd.grad(loss, list(network.parameters()))


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    return np.stack([rng.integers(0, N_USERS, N), rng.integers(0, N_ITEMS, N)], axis=1)


@pytest.fixture(scope="module")
def outcome():
    return np.random.default_rng(1).integers(0, 2, N).astype(np.float64)


@pytest.mark.parametrize("make", [additive, factorisation])
def test_a_plain_step_has_the_gradients_of_the_library(make, pairs, outcome):
    network = make()
    x, y = torch.from_numpy(pairs), torch.from_numpy(outcome)
    logits = network(x[:, 0], x[:, 1])
    for ours, theirs in (
        (torch.nn.functional.mse_loss(torch.sigmoid(logits), y), plain.squared_error),
        (torch.nn.functional.binary_cross_entropy_with_logits(logits, y), plain.cross_entropy),
    ):
        twin = copied(network)
        reference = theirs(twin, x, y)
        torch.testing.assert_close(ours, reference, atol=1e-10, rtol=0)
        ours_by_parameter = torch.autograd.grad(ours, list(network.parameters()), retain_graph=True)
        for a, b in zip(ours_by_parameter, gradients(reference, twin), strict=True):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=0)
            assert b.abs().max() > 1e-6


@pytest.mark.parametrize(
    "weights, published, eta",
    [
        (cf.PAPER.joint_weights, plain.JOINT_WEIGHTS, 0.5),
        (cf.PAPER.two_stage_weights, plain.TWO_STAGE_WEIGHTS, 0.0),
    ],
)
def test_the_cell_loss_is_that_of_the_library(weights, published, eta, pairs, outcome):
    strata, propensity = additive(5, "strata"), additive(1, "propensity")
    network = CellNetwork(
        strata,
        propensity,
        weights=weights,
        propensity_floor=cf.PAPER.joint_propensity_floor,
        propensity_weight=eta,
    )
    rng = np.random.default_rng(2)
    t = rng.integers(0, 2, N)
    log = cf.IncentiveLog(pairs, t, t * rng.integers(0, 2, N), outcome)
    x = torch.from_numpy(pairs)
    ours = network.loss(x[:, 0], x[:, 1], torch.from_numpy(log.cell))
    plain_strata, plain_propensity = copied(strata), copied(propensity)
    columns = (torch.from_numpy(v.astype(np.float64)) for v in (log.t, log.c, log.y))
    reference = plain.cell_loss(
        plain_strata, plain_propensity, (x, *columns), weights=published, propensity_weight=eta
    )
    torch.testing.assert_close(ours, reference, atol=0, rtol=1e-9)
    for a, b in zip(
        gradients(ours, network),
        gradients(reference, torch.nn.ModuleList([plain_strata, plain_propensity])),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_a_whole_fit_runs_the_same_epochs_to_the_same_losses(pairs, outcome):
    network = additive()
    twin = copied(network)
    config = cf.FitConfig(embedding_k=K, tolerance=1e-2)  # a batch is the whole: order does not matter
    x = torch.from_numpy(pairs)
    history = fit_probability(
        network,
        (x[:, 0], x[:, 1], torch.from_numpy(outcome)),
        config,
        generator=derive_generator(0, "batches", CPU),
        label="fit",
    )
    losses = plain.fit(
        twin,
        lambda *batch: plain.squared_error(twin, *batch),
        (pairs, outcome),
        np.random.default_rng(0),
        tolerance=1e-2,
    )
    assert history.converged and len(losses) == history.n_epochs > 7
    np.testing.assert_allclose(losses, history.loss, rtol=1e-7)


def test_rewards_and_allocation_are_those_of_the_library():
    rng = np.random.default_rng(0)
    y0, y1, c1 = rng.random((3, N))
    p = strata_from_moments(y1, y0, c1, c1 * y1)
    predicted = plain.plug_in_reward(y0, y1, c1)
    np.testing.assert_allclose(predicted, cf.expected_reward(p, "coupon", 0.4), atol=1e-12)
    stratum = rng.integers(0, 5, N)
    for r in (predicted, plain.net_effect_reward(y0, y1)):
        expected = cf.count_outcomes(cf.allocate(r, 0.4), stratum, "coupon", 0.4).reward
        assert plain.earned(r, stratum) == pytest.approx(expected, abs=1e-6)


def test_the_construction_has_the_strata_of_the_library():
    ratings = measuring.simulated_ratings(30, 20, 300)
    protocol = cf.Protocol(construction={"authors": ConstructionFits(*2 * [cf.FitConfig(tolerance=1e-2)])})
    study = cf.semisynthetic(ratings, "code", "authors", protocol=protocol)
    ours = np.bincount(np.concatenate([study.train_truth.stratum, study.test.stratum]), minlength=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        done = plain.construct(ratings, np.random.default_rng(0), 150, {})
    assert (len(done.x), len(done.test_x)) == (len(study.train), len(study.test))
    x = np.concatenate([done.x, done.test_x])
    assert len(np.unique(x, axis=0)) == len(x) == len(ratings) + 240

    outcome = np.full((30, 20), -1)  # -1: not rated
    outcome[ratings.user, ratings.item] = ratings.outcome
    train, test = outcome[tuple(done.x.T)], outcome[tuple(done.test_x.T)]
    positives = int(ratings.outcome.sum())
    assert ours.tolist() == [120, 120, 300 - positives, (positives + 1) // 2, positives // 2]
    for value, strata in ((-1, [0, 1]), (0, [2]), (1, [3, 4])):
        assert np.unique(done.test_stratum[test == value]).tolist() == strata
    # What the training part shows: C = C(T), Y = Y(T), and T drawn by a score of the outcome.
    np.testing.assert_array_equal(done.c, done.t * (train >= 0))
    np.testing.assert_array_equal(done.y[(train >= 0) & (done.t == 1)], train[(train >= 0) & (done.t == 1)])
    assert not done.y[train == 0].any() and done.y[train == 1].any()
    assert done.t[train == 1].mean() > done.t[train == 0].mean() + 0.3
    # Labelling "code": the upper halves are coupon buyers and never buyers.
    affinity = np.array([ratings.outcome[ratings.user == u].mean() for u in range(30)])[done.test_x[:, 0]]
    affinity += np.array([ratings.outcome[ratings.item == i].mean() for i in range(20)])[done.test_x[:, 1]]
    mean = [affinity[done.test_stratum == s].mean() for s in range(5)]
    assert mean[3] > mean[4] and mean[0] > mean[1]


def test_the_reference_covers_the_nine_methods_and_leaves_the_global_generator_alone():
    ratings = measuring.simulated_ratings(30, 20, 300)
    before = torch.get_rng_state()
    stages = []
    done = plain.run(ratings, max_epochs=2, on_stage=lambda stage, seconds: stages.append(stage))
    assert torch.equal(torch.get_rng_state(), before)
    assert list(done.rewards) == list(METHODS)
    assert stages == list(done.seconds) == ["construction", "methods"]
    assert set(done.epochs.values()) == {2} and len(done.epochs) == 14
    assert plain.run(ratings, max_epochs=2).rewards == done.rewards


def test_all_three_ways_to_the_unrated_pairs_agree():
    ratings = measuring.simulated_ratings(30, 20, 300)
    by_mask, by_lists = plain.unrated_by_mask(ratings), plain.unrated_by_lists(ratings)
    np.testing.assert_array_equal(by_mask, by_lists)
    rated = set(map(tuple, ratings.pairs.tolist()))
    assert len(by_mask) == 600 - 300 and not rated & set(map(tuple, by_mask.tolist()))


def test_the_two_stage_method_can_be_left_out():
    ratings = measuring.simulated_ratings(30, 20, 300)
    done = plain.run(ratings, max_epochs=2, two_stage=False)
    assert list(done.rewards) == table4_speed.EIGHT == [name for name in METHODS if name != "CF-MTL-v1"]
    assert len(done.epochs) == 11


COMMON = ["--dataset", "simulated-ratings", "--threads", "1", "--rounds", "1"]


@pytest.mark.slow
def test_the_script_measures_all_three_and_writes_its_files(tmp_path, monkeypatch, capfd):
    in_process = table4_speed.run_in_process

    def mostly_here(script, arguments, part):
        """A process is started for one of the three: each takes seconds to import torch and its kernels."""
        if part == "additive":
            return in_process(script, arguments, part)
        return table4_speed.measure(part, table4_speed._parser().parse_args([*arguments, "--only", part]))

    monkeypatch.setattr(table4_speed, "run_in_process", mostly_here)
    assert table4_speed.main([*COMMON, "--results-dir", str(tmp_path)]) == 0
    out, err = capfd.readouterr()
    assert "How many times faster than the reference (one scenario there, both here)" in out
    assert "library: construction took" in err and "reference: methods took" in err

    table, record = load_results(tmp_path / "benchmarks", "table4_speed")
    assert list(table) == ["implementation", "round", "stage", "seconds", "peak_memory_gb"]
    assert table.groupby("implementation")["stage"].apply(list).to_dict() == {
        name: ["construction", "methods", "total"] for name in ("additive", "library", "reference")
    }
    assert (table["seconds"] >= 0).all() and table["peak_memory_gb"].between(0.05, 50).all()
    assert record["threads"] == 1
    assert record["data_fingerprint"] == measuring.simulated_ratings().fingerprint
    assert str(tmp_path) not in json.dumps(record)
    assert {name: sorted(found) for name, found in record["rewards"].items()} == {
        "additive": ["cash", "coupon"],
        "library": ["cash", "coupon"],
        "reference": ["coupon"],
    }
    for found in record["rewards"].values():
        assert list(found["coupon"]) == table4_speed.EIGHT


@pytest.mark.slow
def test_stages_and_their_roofline(tmp_path, capsys):
    assert stages.main([*COMMON, "--results-dir", str(tmp_path)]) == 0
    assert "Times faster than the reference" in capsys.readouterr().out
    table, record = load_results(tmp_path / "benchmarks", "stages")
    assert list(table) == ["stage", "implementation", "round", "seconds"]
    fits = {f"{kind} epoch" for kind in ("NCF", "MF", "MF of the construction", "CF-MTL")}
    assert fits < set(table["stage"]) and (table["seconds"] >= 0).all()
    roofline, _ = load_results(tmp_path / "benchmarks", "roofline")
    np.testing.assert_allclose(
        roofline["gigabytes"],
        [
            stages.bytes_of_epoch(kind, record["log_rows"], (120, 110)) / 1e9
            for kind in ("NCF", "MF", "CF-MTL")
        ],
        atol=1e-4,
    )


def test_bytes_of_an_epoch_counted_by_hand():
    # Two steps of 8192 rows; tables of 10 users and 6 items, 64 floats each: 4096 bytes.
    steps = 2
    row = 16 + 3 * (8 + 4)
    assert stages.bytes_of_epoch("NCF", 20_000, (10, 6)) == steps * (7 * 4096 + 8192 * row)
    assert stages.bytes_of_epoch("CF-MTL", 20_000, (10, 6)) == steps * (14 * 4096 + 8192 * (row - 9))


def test_rows_for_scaling_are_a_log_in_memory_and_in_files(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "ROWS_A_FILE", 300)
    log = scaling.simulated_log(5000, 40, 30, 0)
    assert log.pair_space == (40, 30) and 0.2 < log.t.mean() < 0.8 and log.c.any()
    scaling.write(1000, tmp_path, 0)
    again = cf.ParquetLog(tmp_path, n_users=scaling.N_USERS, n_items=scaling.N_ITEMS)
    assert len(again) == 1000
    in_memory = scaling.simulated_log(1000, scaling.N_USERS, scaling.N_ITEMS, 0)
    np.testing.assert_array_equal(np.concatenate([rows.x for rows in again.row_groups()]), in_memory.x)
    np.testing.assert_array_equal(np.concatenate([rows.cell for rows in again.row_groups()]), in_memory.cell)
    found = scaling.measure("rows in files", 1, tmp_path, 0, 1, 1000)
    assert found["rows"] == 1000 and found["seconds_an_epoch"] >= 0


@pytest.mark.slow
def test_curves_of_time_to_reward(tmp_path, monkeypatch):
    monkeypatch.setattr(
        time_to_reward, "VARIANTS", {"fast": {"tolerance": 1e-1}, "additive": {"parametrisation": "additive"}}
    )
    assert time_to_reward.main([*COMMON, "--results-dir", str(tmp_path)]) == 0
    table, _ = load_results(tmp_path / "benchmarks", "time_to_reward")
    for _, curve in table.groupby("variant"):
        assert curve["epoch"].tolist() == list(range(1, len(curve) + 1))
        assert curve["seconds"].is_monotonic_increasing
        assert curve["held_out_loss"].min() < curve["held_out_loss"].iloc[0]


def test_the_gpu_script_on_the_cpu(capsys):
    small = ["--device", "cpu", "--rows", "600", "--users", "20", "--items", "15", "--batch", "128"]
    assert gpu.main(small) == 0
    assert "cpu computes what the CPU computes." in capsys.readouterr().out


def test_the_gpu_script_notices_a_difference(monkeypatch, capsys):
    real, calls = gpu.fit, []

    def off(kind, device, *rest, **options):
        losses, parameters, seconds = real(kind, device, *rest, **options)
        calls.append(kind)
        return ([loss * (1 + 1e-5 * len(calls)) for loss in losses], parameters, seconds)

    monkeypatch.setattr(gpu, "fit", off)
    small = ["--device", "cpu", "--rows", "600", "--users", "20", "--items", "15", "--batch", "128"]
    assert gpu.main(small) == 1
    assert "does not compute what the CPU computes" in capsys.readouterr().err


def test_means_of_two_runs_in_standard_errors():
    key = {"labelling": "code", "construction": "authors", "scenario": "coupon", "method": "OR"}
    rewards = (1.0, 3.0, 5.0, 7.0)
    before = pd.DataFrame([key | {"seed": k, "reward": value} for k, value in enumerate(rewards)])
    other = pd.DataFrame([key | {"labelling": "text", "seed": 0, "reward": 99.0}])
    now = before.assign(reward=before["reward"] + 0.5)
    (row,) = same_results.compare(pd.concat([before, other]), now).to_dict("records")
    assert (row["mean_before"], row["mean_now"], row["seeds"]) == (4.0, 4.5, 4)
    assert row["standard_error"] == pytest.approx(np.std([1, 3, 5, 7], ddof=1) / 2)
