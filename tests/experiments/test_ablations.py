"""Tables 5 and 6, and why their last row is not identified."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError, UnknownNameError
from cfmtl_lib.estimators.identification import move_between_buyers, unseen_directions
from cfmtl_lib.experiments import studies
from cfmtl_lib.experiments.methods import ABLATIONS
from cfmtl_lib.experiments.paper import reported
from cfmtl_lib.experiments.paper.initialisations import initialisations
from cfmtl_lib.models.losses import expected_cell_losses
from cfmtl_lib.runtime.provenance import checkout, load_results
from cfmtl_lib.strata import CELL_MEMBERSHIP, CELLS

COLUMNS = [
    "dataset",
    "labelling",
    "construction",
    "scenario",
    "method",
    "keeps_001",
    "keeps_000",
    "seed",
    "positive",
    "negative",
    "neutral",
    "reward",
]
WEIGHTS = cf.PAPER.two_stage_weights
WITHOUT = {
    "neither": replace(WEIGHTS, t0c0y1=0.0, t0c0y0=0.0),
    "001": replace(WEIGHTS, t0c0y0=0.0),
    "000": replace(WEIGHTS, t0c0y1=0.0),
    "both": WEIGHTS,
}


def small_study(source, data_dir, labelling, construction, seed, *, device, n_jobs=1, cache=None):
    return cf.simulated(labelling, construction, seed, n_users=40, n_items=30, n_pairs=900)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(studies, "load_study", small_study)


QUICK = {"device": "cpu", "n_jobs": 1, "progress": False}


def test_the_table_has_its_columns_and_rows_and_is_written(small, tmp_path):
    table = cf.table5_6(seeds=1, labelling="text", results_dir=tmp_path, **QUICK)
    assert list(table.columns) == COLUMNS
    assert len(table) == 2 * 2 * 4 * 2
    assert list(table["method"].unique()) == ["CF-MTL-v1", "CF-MTL"]
    assert not table.duplicated(COLUMNS[:8]).any()
    np.testing.assert_allclose(table["reward"], table["positive"] - 0.4 * table["negative"], atol=1e-6)
    found, record = load_results(tmp_path / "simulated", "table5_6")
    pd.testing.assert_frame_equal(found, table)
    assert "notebooks/08_tables5_6.md" in record["command"] and record["fits"] == 16


def test_rows_are_what_the_estimators_earn(small):
    table = cf.table5_6(seeds=1, construction="authors", methods=["CF-MTL"], **QUICK)
    study = small_study(None, None, "code", "authors", 0, device="cpu")
    for row in ABLATIONS.values():
        if row.method != "CF-MTL":
            continue
        weights = replace(
            cf.PAPER.joint_weights,
            **({} if row.keeps_001 else {"t0c0y1": 0.0}),
            **({} if row.keeps_000 else {"t0c0y0": 0.0}),
        )
        model = cf.CFMTL(weights=weights, device="cpu").fit(study.train)
        treat = cf.allocate(model.predict_reward(study.test.x, "cash", 0.4), 0.4)
        expected = cf.count_outcomes(treat, study.test.stratum, "cash", 0.4)
        (found,) = table.query(
            "scenario == 'cash' and keeps_001 == @row.keeps_001 and keeps_000 == @row.keeps_000"
        )["reward"]
        assert found == expected.reward


def test_full_rows_are_those_of_table_4(small, tmp_path):
    options = {"seeds": 1, "construction": "authors", "fits_dir": tmp_path, **QUICK}
    full = cf.table5_6(**options).query("keeps_001 and keeps_000")
    of_table4 = cf.table4(methods=["CF-MTL-v1", "CF-MTL"], **options)
    pd.testing.assert_frame_equal(
        full.drop(columns=["keeps_001", "keeps_000"]).reset_index(drop=True), of_table4, check_like=False
    )


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"methods": ["OR"]}, UnknownNameError, "method: expected one of 'CF-MTL', 'CF-MTL-v1'"),
        ({"methods": []}, InputError, "methods"),
        ({"seeds": 0}, InputError, "seeds"),
        ({"labelling": "x"}, UnknownNameError, "labelling"),
    ],
)
def test_bad_arguments_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        cf.table5_6(**(QUICK | change))


@pytest.mark.parametrize("kept, n_unseen", [("both", 0), ("001", 0), ("000", 0), ("neither", 1)])
def test_only_without_both_terms_a_direction_is_unseen(kept, n_unseen):
    basis = unseen_directions(WITHOUT[kept])
    assert basis.shape == (5, n_unseen)
    if n_unseen:
        np.testing.assert_allclose(
            basis[:, 0] * np.sign(basis[3, 0]), [0, 0, 0, 0.5**0.5, -(0.5**0.5)], atol=1e-9
        )
        treated = np.array([t for t, _, _ in CELLS]) == 1
        np.testing.assert_allclose(CELL_MEMBERSHIP[treated] @ basis, 0, atol=1e-9)


def profile(kept, at):
    truth = cf.simulated(n_users=60, n_items=50, n_pairs=2000).test
    return np.array(
        [
            expected_cell_losses(
                move_between_buyers(truth.strata_probability, share),
                truth.strata_probability,
                truth.propensity,
            )
            @ WITHOUT[kept].in_cell_order()
            for share in at
        ]
    )


def test_the_expected_loss_is_flat_without_both_terms():
    assert np.ptp(profile("neither", np.linspace(-1, 1, 9))) < 1e-9


@pytest.mark.parametrize("kept", ["both", "001", "000"])
def test_the_expected_loss_has_its_minimum_at_the_truth_with_a_term(kept):
    at = np.linspace(-1, 1, 41)
    loss = profile(kept, at)
    assert at[loss.argmin()] == 0
    assert loss[0] - loss.min() > 0.01 and loss[-1] - loss.min() > 0.01


def test_the_expected_loss_of_the_truth_is_the_mean_of_drawn_losses():
    """Against a plain Monte Carlo mean of the six cross-entropies, within three standard errors."""
    truth = cf.simulated(n_users=60, n_items=50, n_pairs=2000).test
    p = move_between_buyers(truth.strata_probability, 0.3)
    expected = expected_cell_losses(p, truth.strata_probability, truth.propensity)
    rng = np.random.default_rng(0)
    treated = np.array([t for t, _, _ in CELLS], dtype=bool)
    arm = np.where(treated[:, None], truth.propensity, 1 - truth.propensity)
    q, happens = (arm * (CELL_MEMBERSHIP @ v.T) for v in (p, truth.strata_probability))
    draws = []
    for _ in range(200):
        cell = (rng.random(len(truth)) > happens.cumsum(axis=0)[:-1]).sum(axis=0)
        z = cell == np.arange(6)[:, None]
        draws.append(-np.where(z, np.log(q + 1e-6), np.log1p(-q - 1e-6)).mean(axis=1))
    mean, se = np.mean(draws, axis=0), np.std(draws, axis=0) / 200**0.5
    assert (np.abs(expected - mean) <= 3 * se).all()


def test_moving_keeps_sums_and_refuses_nonsense():
    p = np.array([[0.1, 0.1, 0.2, 0.4, 0.2]])
    for share in (-1, -0.3, 0, 0.5, 1):
        moved = move_between_buyers(p, share)
        assert moved.sum() == pytest.approx(1) and (moved >= 0).all()
        np.testing.assert_array_equal(moved[:, :3], p[:, :3])
    for share in (-1.1, 2, np.nan):
        with pytest.raises(InputError, match="share"):
            move_between_buyers(p, share)


def test_initialisations_change_the_fit_and_not_the_data(small, tmp_path):
    table = initialisations(count=2, results_dir=tmp_path, **QUICK)
    assert list(table.columns) == [*COLUMNS[:8], "initialisation", *COLUMNS[8:]]
    assert set(table["seed"]) == {0} and set(table["initialisation"]) == {0, 1}
    assert len(table) == 2 * 2 * 2
    study = small_study(None, None, "code", "document", 0, device="cpu")
    model = cf.CFMTLv1(device="cpu", seed=1).fit(study.train)
    treat = cf.allocate(model.predict_reward(study.test.x, "coupon", 0.4), 0.4)
    (found,) = table.query("initialisation == 1 and keeps_001 and scenario == 'coupon'")["reward"]
    assert found == cf.count_outcomes(treat, study.test.stratum, "coupon", 0.4).reward
    assert "count=2" in load_results(tmp_path / "simulated", "table5_6_initialisations")[1]["command"]
    with pytest.raises(InputError, match="count"):
        initialisations(count=0, **QUICK)


def test_the_printed_tables_are_read_as_printed():
    table = reported.reported_table5_6()
    assert len(table) == 16
    reward = table.set_index(["dataset", "scenario", "keeps_001", "keeps_000"])["reward"]
    assert reward["ml-1m", "coupon", False, False] == 44_163
    assert reward["ml-1m", "cash", True, False] == 67_789
    assert reward["ml-1m", "coupon", False, True] == 73_363
    assert reward["yelp", "cash", True, True] == 57_763
    full = reported.reported_table4().query("method == 'CF-MTL-v1'").set_index(["dataset", "scenario"])
    for dataset, scenario in (("ml-1m", "coupon"), ("ml-1m", "cash"), ("yelp", "coupon"), ("yelp", "cash")):
        assert reward[dataset, scenario, True, True] == full.loc[(dataset, scenario), "reward"]


def test_ablations_are_compared_on_the_data_they_were_printed_from():
    rows = [
        {
            "labelling": labelling, "construction": construction, "scenario": "coupon", "method": method,
            "keeps_001": False, "keeps_000": False, "seed": seed,
            "reward": 1000.0 * (labelling == "code") + 100 * (construction == "document")
            + 10 * (method == "CF-MTL-v1") + seed,
        }
        for labelling in ("code", "text")
        for construction in ("authors", "document")
        for method in ("CF-MTL", "CF-MTL-v1")
        for seed in (0, 2)
    ]  # fmt: skip
    (row,) = reported.compare_ablations(pd.DataFrame(rows), "ml-1m").itertuples()
    assert (row.mean, row.lowest, row.highest, row.seeds) == (1111, 1110, 1112, 2)
    assert row.reported == 44_163 and row.difference == 1111 - 44_163


@pytest.fixture
def published():
    return load_results(checkout() / "results" / "ml-1m", "table5_6")[0]


def test_the_published_run_reproduces_table_6(published):
    comparison = reported.compare_ablations(published, "ml-1m")
    assert (comparison["seeds"] == 10).all()
    identified = [a or b for _, a, b in comparison.index]
    assert (comparison.loc[identified, "percent"].abs() < 3).all()
    for scenario in cf.SCENARIOS:
        part = comparison.loc[scenario]["mean"]
        assert part[False, False] < 0.65 * part[True, True]
