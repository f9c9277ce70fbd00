"""Boosted strata: derivatives, start, recovery of a known population, and logs that trees can hardly use."""

import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError, ModelFileError, TrustWarning
from cfmtl_lib.estimators.cells import trees
from cfmtl_lib.estimators.cells.backend import held_out_rows
from cfmtl_lib.estimators.cells.boosted_cells import BoostedStrata, start_weights
from cfmtl_lib.estimators.cells.feature_cells import FeatureCells
from cfmtl_lib.estimators.cells.mixture import (
    LEAST_CURVATURE_SHARE,
    negative_log_likelihood,
    shares_of_cells,
    slopes_and_curvatures,
    strata_of_cells,
)
from cfmtl_lib.strata import strata_from_moments

QUICK = cf.BoostedConfig(n_fits=1)


@pytest.fixture(scope="module")
def campaign():
    return cf.simulated_campaign(3000, seed=1)


@pytest.fixture(scope="module")
def fitted(campaign):
    return cf.CFMTL(config=replace(QUICK, n_fits=2), seed=3).fit(campaign.log())


def test_slopes_and_curvatures_are_those_of_the_likelihood():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(300, 5))
    member = strata_of_cells(rng.integers(0, 6, 300))
    slope, curvature = slopes_and_curvatures(logits, member)
    p, step = softmax(logits, axis=1), 1e-4
    for z in range(5):
        moved = np.eye(5)[z] * step
        up, here, down = (negative_log_likelihood(logits + by * moved, member) for by in (1, 0, -1))
        np.testing.assert_allclose(slope[:, z], (up - down) / (2 * step), atol=1e-6)
        exact = (slopes_and_curvatures(logits + moved, member)[0] - slope)[:, z] / step
        least = LEAST_CURVATURE_SHARE * p[:, z] * (1 - p[:, z])
        np.testing.assert_allclose(curvature[:, z], np.maximum(exact, least), atol=1e-4)
        np.testing.assert_allclose((up - 2 * here + down) / step**2, exact, atol=1e-4)
    assert (curvature > 0).all()
    np.testing.assert_allclose(slope.sum(axis=1), 0, atol=1e-12)


def test_em_finds_the_solution_of_the_cell_equations():
    shares = np.array([0.3, 0.15, 0.2, 0.1, 0.25])
    cells = cf.strata.CELL_MEMBERSHIP @ shares * np.repeat([400, 600], [4, 2])
    np.testing.assert_allclose(shares_of_cells(cells), shares, atol=1e-6)
    mu1, mu0, kappa, tau = 0.5, 0.4, 0.55, 0.35
    np.testing.assert_allclose(
        shares_of_cells(cells), strata_from_moments([mu1], [mu0], [kappa], [tau])[0], atol=1e-6
    )
    # More conversions without the incentive than with it: no coupon buyers, and no negative share.
    border = shares_of_cells(np.array([50.0, 10, 30, 10, 60, 40]))
    assert (border >= 0).all() and border[3] < 1e-6 and border.sum() == pytest.approx(1)


def test_start_is_that_of_the_population_under_confounding():
    """Whoever would convert anyway is treated more: plain shares of cells see too many coupon buyers."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(20_000, 2))
    p = softmax(
        np.column_stack([np.zeros(len(x)), -1 + 0 * x[:, 0], x[:, 1], -x[:, 0], 1.5 * x[:, 0]]), axis=1
    )
    e = 1 / (1 + np.exp(-1.5 * x[:, 0]))
    t = (rng.random(len(x)) < e).astype(int)
    c, y = cf.strata.observe(cf.strata.draw_strata(p, rng), t)
    for log in (cf.IncentiveLog(x, t, c, y), cf.IncentiveLog(x, t, c, y, propensity=e)):
        propensity = cf.CFMTL(config=QUICK).fit(log).network_.propensity
        weight = start_weights(log, propensity)
        weighted = shares_of_cells(np.bincount(log.cell, weights=weight, minlength=6))
        plain = shares_of_cells(np.bincount(log.cell, minlength=6))
        truth = p.mean(axis=0)
        assert np.abs(weighted - truth).max() < 0.02 < 0.1 < np.abs(plain - truth).max()


def test_recovers_a_population_better_than_networks(campaign):
    later = cf.simulated_campaign(5000, seed=77)
    boosted = cf.CFMTL().fit(campaign.log())
    networks = cf.CFMTL(config=cf.FeatureConfig(n_networks=2)).fit(campaign.log())
    assert isinstance(boosted.network_, BoostedStrata) and isinstance(networks.network_, FeatureCells)
    assert boosted.score(later.log()) > networks.score(later.log())
    error = [
        np.abs(m.predict_strata(later.table) - later.strata_probability).mean() for m in (boosted, networks)
    ]
    assert error[0] < error[1]
    found = boosted.predict_propensity(later.table)
    assert np.abs(found - later.propensity).mean() < 0.5 * np.abs(later.propensity - 0.5).mean()


def test_share_of_coupon_buyers_is_that_of_the_population():
    gaps = []
    for seed in range(8):
        study = cf.simulated_campaign(2000, seed=100 + seed)
        p = cf.CFMTL(config=QUICK, seed=seed).fit(study.log()).predict_strata(study.log())
        gaps.append(p[:, 3].mean() - study.strata_probability[:, 3].mean())
    assert abs(np.mean(gaps)) <= 3 * np.std(gaps, ddof=1) / np.sqrt(len(gaps)), gaps


def test_same_seed_same_digits_and_no_message(campaign, fitted, capfd):
    again = cf.CFMTL(config=replace(QUICK, n_fits=2), seed=3).fit(campaign.log())
    p = fitted.predict_strata(campaign.table)
    np.testing.assert_array_equal(again.predict_strata(campaign.table), p)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)
    other = cf.CFMTL(config=replace(QUICK, n_fits=2), seed=4).fit(campaign.log())
    assert np.abs(other.predict_strata(campaign.table) - p).max() > 0
    assert capfd.readouterr() == ("", "")
    history = fitted.histories_["cells 1"]
    assert history.converged and history.engine.startswith("LightGBM 4.")
    assert len(history.loss) == history.n_epochs == len(history.validation_loss)
    assert history.loss[-1] < history.loss[0] and min(history.validation_loss) < history.validation_loss[0]


def test_the_best_round_is_the_one_that_is_kept(campaign, fitted):
    """The model of a fit has the validation loss that the fit reported as its least."""
    log = campaign.log()
    held_out = held_out_rows(log, 0.2, 3, 0)
    one = trees.TreeAverage(fitted.network_.strata.start, fitted.network_.strata.texts[:1], log.x.shape[1])
    p = one.predict(log.x[held_out])
    loss = negative_log_likelihood(np.log(p), strata_of_cells(log.cell[held_out])).mean()
    assert loss == pytest.approx(min(fitted.histories_["cells 0"].validation_loss), abs=1e-9)


def test_settings_of_the_cell_loss_fit_networks_or_are_refused(campaign):
    log = cf.simulated_campaign(300, seed=1).log()
    quick = cf.FeatureConfig(hidden=(4,), n_networks=1, fit=cf.FitConfig(max_epochs=200, tolerance=0.05))
    equal = cf.CellWeights(1, 1, 1, 1, 1, 1)
    for settings in ({"weights": equal}, {"propensity_weight": 1.0}, {"propensity_floor": 0.1}):
        with pytest.raises(
            InputError, match=r"config: expected FeatureConfig .*found BoostedConfig.*no weights"
        ):
            cf.CFMTL(config=cf.BoostedConfig(), **settings).fit(log)
        model = cf.CFMTL(config=quick, **settings).fit(log)
        assert isinstance(model.network_, FeatureCells)
    floor = model.network_.networks[0].propensity_floor
    assert (floor, cf.CFMTL(config=quick).fit(log).network_.networks[0].propensity_floor) == (0.1, 0.0)
    with pytest.raises(InputError, match=r"found BoostedConfig.*no first stage"):
        cf.CFMTLv1(config=cf.BoostedConfig()).fit(log)
    pairs = cf.simulated(n_users=20, n_items=20, n_pairs=300).train
    with pytest.raises(InputError, match="expected FitConfig for a log of pairs, found BoostedConfig"):
        cf.CFMTL(config=cf.BoostedConfig()).fit(pairs)
    assert (
        cf.CFMTL(config=cf.FitConfig(max_epochs=500, tolerance=0.1)).fit(pairs).network_.propensity_floor
        == 0.1
    )


def outcomes(n, seed=0, chance=0.5):
    rng = np.random.default_rng(seed)
    t = np.arange(n) % 2
    c = t * (rng.random(n) < 0.6)
    return t, c, (rng.random(n) < chance).astype(int)


@pytest.mark.parametrize("n", [6, 25, 60])
def test_few_rows_give_the_shares_of_all(n):
    x = np.random.default_rng(1).normal(size=(n, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        model = cf.CFMTL(config=QUICK).fit(cf.IncentiveLog(x, *outcomes(n)))
    p = model.predict_strata(x)
    assert np.isfinite(p).all() and (p > 0).all() and (n > 50 or np.ptp(p, axis=0).max() == 0)


def test_few_rows_of_an_arm_are_told():
    t, c, y = outcomes(300)
    few = np.where(np.arange(300) < 6, t, 1)
    log = cf.IncentiveLog(np.random.default_rng(1).normal(size=(300, 2)), few, c * few, y)
    with pytest.warns(TrustWarning, match="only 3 are untreated"):
        cf.CFMTL(config=QUICK).fit(log)


@pytest.mark.parametrize("chance", [0.0, 0.005])
def test_rare_conversions(chance):
    x = np.random.default_rng(1).normal(size=(2000, 2))
    log = cf.IncentiveLog(x, *outcomes(2000, chance=chance))
    p = cf.CFMTL(config=QUICK).fit(log).predict_strata(x)
    assert np.isfinite(p).all() and p[:, [1, 3, 4]].mean(axis=0).max() < 0.01


def test_columns_without_information():
    """Constant columns, missing numbers, and a category of many levels."""
    rng = np.random.default_rng(2)
    n = 2000
    t, c, y = outcomes(n)
    level = rng.integers(0, 700, n)
    y = np.where(level % 2 == 0, 1, y)
    frame = pd.DataFrame(
        {
            "constant": np.ones(n),
            "holes": np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n)),
            "level": [f"level {k}" for k in level],
            "even": np.where(level % 2 == 0, "even", None),
        }
    )
    columns = {"treatment": "t", "collected": "c", "converted": "y"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        log = cf.IncentiveLog.from_frame(frame.assign(t=t, c=c, y=y), features=list(frame), **columns)
    p = cf.CFMTL(config=QUICK).fit(log).predict_strata(frame)
    converts_anyway = p[:, 1] + p[:, 4]
    assert converts_anyway[level % 2 == 0].mean() > converts_anyway[level % 2 == 1].mean() + 0.3
    nothing = cf.IncentiveLog(np.ones((200, 2)), *outcomes(200))
    assert np.ptp(cf.CFMTL(config=QUICK).fit(nothing).predict_strata(nothing), axis=0).max() == 0


def test_clusters_are_held_out_whole():
    t, c, y = outcomes(400)
    cluster = np.repeat(np.arange(40), 10)
    x = np.random.default_rng(1).normal(size=(400, 2))
    log = cf.IncentiveLog(x, t, c, y, cluster=cluster)
    held_out = held_out_rows(log, 0.2, 0, 0)
    assert held_out.sum() == 80 and set(held_out.reshape(40, 10).sum(axis=1)) == {0, 10}
    apart = cf.CFMTL(config=QUICK).fit(cf.IncentiveLog(x, t, c, y)).predict_strata(x)
    assert np.abs(cf.CFMTL(config=QUICK).fit(log).predict_strata(x) - apart).max() > 0


def test_a_stop_at_the_last_round_is_told(campaign):
    with pytest.warns(UserWarning, match="max_rounds=3"):
        cf.CFMTL(config=replace(QUICK, max_rounds=3)).fit(campaign.log())


def test_progress_is_reported(campaign, capfd):
    cf.CFMTL(config=QUICK, progress=True).fit(campaign.log())
    assert "CFMTL cells: 1/1 done" in capfd.readouterr().err


LOADED = ("torch", "lightgbm")

CHANGES = {
    "a column that is not there": ("split_feature=", "split_feature=9", "split_feature="),
    "a child that is not there": ("left_child=1", "left_child=7", None),
    "a child that is its parent": ("left_child=1", "left_child=0", None),
    "other sizes": ("tree_sizes=", "tree_sizes=9", None),
    "another number of classes": ("num_class=5", "num_class=7", None),
    "no end": ("end of trees", "end", None),
    "another feature count": ("max_feature_idx=6", "max_feature_idx=9", None),
    "no number": ("leaf_value=", "leaf_value=nan ", None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_trees_with_indices_outside_are_refused(change, fitted):
    before, after, _ = CHANGES[change]
    text = fitted.network_.strata.texts[0]
    trees.check_text(text, 7, 5)
    assert before in text
    with pytest.raises(InputError, match="trees: expected whole trees of 7 columns"):
        trees.check_text(text.replace(before, after), 7, 5)


def test_saved_trees_are_the_same_and_a_flipped_byte_is_refused(campaign, fitted, tmp_path):
    path = tmp_path / "model.safetensors"
    cf.save(fitted, path)
    loaded = cf.load(path)
    for ask in ("predict_strata", "predict_propensity"):
        np.testing.assert_array_equal(
            getattr(loaded, ask)(campaign.table), getattr(fitted, ask)(campaign.table)
        )
    assert loaded.get_params()["config"] == fitted.config and loaded.histories_ == fitted.histories_
    content = bytearray(path.read_bytes())
    at = content.index(b"leaf_value=") + len(b"leaf_value=0.0")
    content[at] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ModelFileError, match="content that its digest belongs to"):
        cf.load(path)


def test_parts_of_another_model_are_refused(fitted):
    strata, propensity = fitted.network_.strata, fitted.network_.propensity
    with pytest.raises(InputError, match="5 logits and 1"):
        BoostedStrata.from_parts({"strata": propensity, "propensity": strata}, None)
    parts = strata.to_parts()
    for change, match in (
        ({"start": parts["start"] * np.nan}, "finite logits"),
        ({"texts": ()}, "one at least"),
        ({"sizes": {"n_columns": 6, "threads": 1}}, "trees of 6 columns"),
        ({"sizes": {"n_columns": 7, "threads": 0}}, "threads"),
    ):
        with pytest.raises(InputError, match=match):
            trees.TreeAverage.from_parts({**parts, **change}, None)


def test_a_missing_library_is_told(monkeypatch, campaign):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(InputError, match=r"lightgbm: expected .*pip install lightgbm.*libgomp1"):
        cf.CFMTL(config=QUICK).fit(campaign.log())


def test_torch_is_loaded_before_lightgbm():
    """On machines without an OpenMP library of their own, LightGBM finds that of torch."""
    lines = Path(trees.__file__).read_text(encoding="utf-8").splitlines()
    at = {
        name: [k for k, line in enumerate(lines) if line.split()[:2] == ["import", name]] for name in LOADED
    }
    assert lines[at["torch"][0]].startswith("import torch")  # with the module
    assert [lines[k][:8] for k in at["lightgbm"]] == [" " * 8]  # inside a function
