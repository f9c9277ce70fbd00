"""Loss weights are chosen on held-out rows of a log, and on nothing else."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError
from cfmtl_lib.experiments import studies
from cfmtl_lib.experiments.paper import loss_weights
from cfmtl_lib.experiments.paper.loss_weights import (
    candidates,
    choose,
    chosen_weights,
    held_out_log_likelihood,
    split_log,
)
from cfmtl_lib.runtime.fit_cache import FitCache
from cfmtl_lib.runtime.provenance import load_results


@pytest.fixture(scope="module")
def study():
    return cf.simulated(n_users=40, n_items=30, n_pairs=900)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    def small_study(source, data_dir, labelling, construction, seed, *, device, n_jobs=1, cache=None):
        return cf.simulated(labelling, construction, seed, n_users=40, n_items=30, n_pairs=900)

    monkeypatch.setattr(studies, "load_study", small_study)


@pytest.fixture
def two_candidates(monkeypatch):
    """Fewer fits: the published weights of each form only."""
    few = {"CF-MTL": cf.PAPER.joint_weights, "CF-MTL-v1": cf.PAPER.two_stage_weights}
    monkeypatch.setattr(loss_weights, "candidates", lambda log: few)


class Oracle:
    """Predicts given strata probabilities and propensities."""

    def __init__(self, p, e):
        self.p, self.e = p, e

    def predict_strata(self, x):
        return self.p

    def predict_propensity(self, x):
        return self.e


def test_the_likelihood_is_that_of_the_observed_cells(study):
    log, truth = study.train, study.train_truth
    joint, given_arm = held_out_log_likelihood(Oracle(truth.strata_probability, truth.propensity), log)
    expected = []
    for p, e, t, c, y in zip(truth.strata_probability, truth.propensity, log.t, log.c, log.y, strict=True):
        if t:
            strata = {(0, 0): [0], (0, 1): [1], (1, 0): [2], (1, 1): [3, 4]}[c, y]
        else:
            strata = [1, 4] if y else [0, 2, 3]
        expected.append((np.log(p[strata].sum()), np.log(e if t else 1 - e)))
    given, arm = np.mean(expected, axis=0)
    assert given_arm == pytest.approx(given, abs=1e-9)
    assert joint == pytest.approx(given + arm, abs=1e-9)


def test_the_truth_is_likelier_than_anything_wrong(study):
    log, truth = study.train, study.train_truth
    right = held_out_log_likelihood(Oracle(truth.strata_probability, truth.propensity), log)
    shuffled = np.random.default_rng(0).permutation(truth.strata_probability)
    assert right > held_out_log_likelihood(Oracle(shuffled, truth.propensity), log)
    assert right[0] > held_out_log_likelihood(Oracle(truth.strata_probability, 1 - truth.propensity), log)[0]


def test_a_log_is_split_in_two_disjoint_parts(study):
    fitted_to, judged_on = split_log(study.train, 0)
    assert (len(fitted_to), len(judged_on)) == (504, 126)
    assert fitted_to.pair_space == judged_on.pair_space == study.train.pair_space
    codes = [set(map(tuple, part.x.tolist())) for part in (fitted_to, judged_on)]
    assert not codes[0] & codes[1] and len(codes[0] | codes[1]) == 630
    with pytest.raises(InputError, match="ten rows"):
        split_log(loss_weights._rows(study.train, np.arange(9)), 0)


def test_candidates_hold_the_published_weights_and_weigh_rare_cells_up(study):
    named = candidates(study.train)
    assert named["CF-MTL"] == cf.PAPER.joint_weights and named["CF-MTL-v1"] == cf.PAPER.two_stage_weights
    share = np.bincount(study.train.cell, minlength=6) / len(study.train)
    np.testing.assert_allclose(
        np.array(named["rare cells"].in_cell_order()) * share,
        (named["rare cells"].t1c0y0 * share[0]),
        rtol=1e-2,
    )


def test_the_choice_sees_no_truth(study, two_candidates):
    """Other true strata behind the same log: the same candidates, likelihoods and choice."""
    options = {"device": "cpu", "cache": FitCache()}
    lied = dataclasses.replace(
        study,
        test=dataclasses.replace(study.test, stratum=np.zeros_like(study.test.stratum)),
        train_truth=dataclasses.replace(study.train_truth, stratum=np.zeros_like(study.train_truth.stratum)),
    )
    rows, again = choose(study, **options), choose(lied, **options)
    assert rows == again
    for method in ("CF-MTL", "CF-MTL-v1"):
        part = [row for row in rows if row["method"] == method]
        assert [row["chosen"] for row in part].count(True) == 1
        best = max(part, key=lambda row: row["held_out"])
        assert best["chosen"]


def test_the_run_fits_the_chosen_weights_and_writes_both_tables(tmp_path, two_candidates):
    options = {"seeds": 2, "construction": "authors", "device": "cpu", "n_jobs": 1, "progress": False}
    table = chosen_weights(**options, results_dir=tmp_path)
    assert set(table["labelling"]) == {"text"} and len(table) == 2 * 2 * 2
    both = chosen_weights(**options | {"seeds": 1}, labelling="both")
    pd.testing.assert_frame_equal(
        both.query("labelling == 'text'").reset_index(drop=True),
        table.query("seed == 0").reset_index(drop=True),
    )
    choice = table.attrs["choice"]
    assert set(choice["seed"]) == {0}
    best = choice[choice["chosen"]].set_index("method")
    for row in table.itertuples():
        assert row.weights == best.loc[row.method, "weights"]
    study = cf.simulated("text", "authors", 1, n_users=40, n_items=30, n_pairs=900)
    weights = loss_weights.candidates(study.train)
    model = cf.CFMTL(weights=weights[best.loc["CF-MTL", "weights"]], device="cpu", seed=1).fit(study.train)
    treat = cf.allocate(model.predict_reward(study.test.x, "cash", 0.4), 0.4)
    (found,) = table.query("method == 'CF-MTL' and seed == 1 and scenario == 'cash'")["reward"]
    assert found == cf.count_outcomes(treat, study.test.stratum, "cash", 0.4).reward
    for name, expected in (("loss_weights_rewards", table), ("loss_weights", choice)):
        written, record = load_results(tmp_path / "simulated", name)
        pd.testing.assert_frame_equal(written, expected)
        assert record["command"].startswith("cfmtl_lib.experiments.paper.loss_weights.chosen_weights(")
        # Two stages of v1 and the joint fit by candidate; the choice is made on seed 0.
        assert record["seeds"] == ([0] if name == "loss_weights" else [0, 1])
        assert record["fits"] == 4
