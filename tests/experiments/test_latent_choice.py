"""Settings of latent strata beside their held-out likelihood and rewards."""

import numpy as np
import pandas as pd
import pytest

import cfmtl_lib as cf
from cfmtl_lib.estimators.latent_strata import choose_latent_config, split_rows
from cfmtl_lib.experiments import studies
from cfmtl_lib.experiments.paper.latent_choice import latent_choice
from cfmtl_lib.runtime.provenance import load_results

CANDIDATES = [cf.LatentConfig(rank=rank, epochs=2, steps=5) for rank in (0, 2)]


def test_the_choice_is_that_of_the_library_and_rewards_stand_beside_it(monkeypatch, tmp_path):
    study = cf.simulated(n_users=40, n_items=30, n_pairs=900)
    monkeypatch.setattr(studies, "load_study", lambda *args, **options: study)
    options = {"construction": "authors", "seeds": 1, "n_jobs": 1, "device": "cpu", "progress": False}
    table = latent_choice(candidates=CANDIDATES, results_dir=tmp_path, **options)
    assert table.groupby(["assignment", "rank"])["starts"].agg(list).tolist() == [[1, 2, 4, 8]] * 4
    assert table.groupby("assignment")["chosen"].sum().tolist() == [1, 1]
    for assignment, rows in table.groupby("assignment"):
        mine = rows[rows["starts"] == 8]["held_out"]
        theirs = choose_latent_config(study.train, CANDIDATES, assignment=str(assignment), device="cpu").table
        np.testing.assert_allclose(mine, theirs["log_likelihood"], atol=1e-6)
        assert rows["held_out"].max() == rows.loc[rows["chosen"], "held_out"].item()
    model = cf.LatentStrata(config=CANDIDATES[1], device="cpu", n_jobs=1).set_params(assignment="given-x")
    kept, _ = split_rows(study.train, seed=0)
    reward = model.fit(kept).predict_reward(study.test.x, "cash", 0.4)
    counts = cf.count_outcomes(cf.allocate(reward, budget=0.4), study.test.stratum, "cash", 0.4)
    row = table[(table["assignment"] == "given-x") & (table["rank"] == 2) & (table["starts"] == 8)]
    assert row["cash"].item() == pytest.approx(counts.reward)
    stored, provenance = load_results(tmp_path / study.dataset, "latent_choice")
    pd.testing.assert_frame_equal(stored, table, check_dtype=False)
    assert "latent_choice(" in provenance["command"]


def test_no_candidates_are_refused():
    with pytest.raises(cf.InputError, match="candidates"):
        latent_choice(candidates=[], seeds=1, progress=False)
