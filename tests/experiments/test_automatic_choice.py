"""The study of the automatic choice: its rows, what they mean, and where they go."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError, UnknownNameError
from cfmtl_lib.experiments.evaluation.automatic_choice import (
    AUTOMATIC,
    COLUMNS,
    automatic_choice,
    summary_of_choice,
)
from cfmtl_lib.experiments.evaluation.learner_worlds import LEARNER_WORLDS, RARE, draw_population

LINES = cf.CFOR(outcome=make_pipeline(StandardScaler(), LogisticRegression()))
FEW = {"lines": LINES, "response": cf.Naive(outcome=LINES.outcome)}
WORLDS = ("nonlinear", "rare coupon buyers")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    options = {"candidates": FEW, "later_rows": 2000, "n_jobs": 1, "progress": False}
    table = automatic_choice({400: (1, 2)}, WORLDS, results_dir=folder, fits_dir=folder / "fits", **options)
    again = automatic_choice({400: (1, 2)}, WORLDS, fits_dir=folder / "fits", **options)
    return folder, table, again


def test_rows_and_files(made):
    folder, table, again = made
    assert list(table.columns) == COLUMNS
    assert table["policy"].tolist() == [*FEW, AUTOMATIC] * 3
    assert table[["world", "seed"]].drop_duplicates().to_numpy().tolist() == [
        ["nonlinear", 0],
        ["rare coupon buyers", 0],
        ["rare coupon buyers", 1],
    ]
    kept = pd.read_csv(folder / "simulated-worlds" / "automatic_choice.csv")
    assert kept["reward"].tolist() == pytest.approx(table["reward"].tolist())
    assert json.loads((folder / "simulated-worlds" / "automatic_choice.json").read_text())["seeds"] == [0, 1]
    pd.testing.assert_frame_equal(again, table)  # seconds too: nothing is fitted twice


def test_no_policy_earns_more_than_the_oracle_and_nobody_earns_nothing(made):
    _, table, _ = made
    assert (table["reward"] <= table["oracle"] + 1e-12).all()
    chosen = table[table["policy"] == AUTOMATIC]
    assert (chosen.loc[chosen["nobody"], "reward"] == 0).all()
    assert (chosen["share_treated"] <= 0.4).all()
    summary = summary_of_choice(table).set_index("world")
    rare = chosen.loc[chosen["world"] == "rare coupon buyers", "reward"]
    assert summary.loc["rare coupon buyers", "reward"] == pytest.approx(rare.mean())
    assert summary.loc["nonlinear", "best"] in FEW and summary["logs"].tolist() == [1, 2]


def test_rare_worlds_are_rare_and_the_others_pay():
    for world in LEARNER_WORLDS:
        drawn = draw_population(world, 4000, seed=3)
        np.testing.assert_allclose(drawn.strata_probability.sum(axis=1), 1)
        assert len(drawn.log) == len(drawn.x) == 4000
        reward = cf.expected_reward(drawn.strata_probability, "coupon", 0.4)
        oracle = (cf.allocate(reward, 0.4) * reward).mean()
        assert oracle < 0.002 if world in RARE else oracle > 0.05


def test_bad_arguments_are_refused():
    with pytest.raises(UnknownNameError, match="world"):
        automatic_choice({400: (1, 1)}, ["flat"])
    with pytest.raises(InputError, match="logs"):
        automatic_choice({400: (0, 1)}, ["nonlinear"])
