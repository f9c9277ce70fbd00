"""Curves over budget and cost: the same policies as those of Table 4, and nothing fitted for them."""

import numpy as np
import pandas as pd
import pytest

import cfmtl_lib as cf
from cfmtl_lib.experiments import methods, studies
from cfmtl_lib.experiments.paper.sensitivity import (
    BUDGETS,
    COSTS,
    SURFACE_METHODS,
    over_seeds,
    reward_surface,
    rewards_by_budget,
    rewards_by_cost,
    sensitivity,
)
from cfmtl_lib.experiments.paper.tables import ROWS_OF_TABLE4
from cfmtl_lib.policy.rewards import stratum_rewards
from cfmtl_lib.runtime.provenance import load_results

QUICK = {"device": "cpu", "n_jobs": 1, "progress": False, "seeds": 2}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    def small_study(source, data_dir, labelling, construction, seed, *, device, n_jobs=1, cache=None):
        return cf.simulated(labelling, construction, seed, n_users=40, n_items=30, n_pairs=900)

    monkeypatch.setattr(studies, "load_study", small_study)


@pytest.fixture(scope="module")
def study():
    return cf.simulated(n_users=40, n_items=30, n_pairs=900)


def test_settings_cover_what_they_should():
    assert BUDGETS[0] == 0.05 and BUDGETS[-1] == 1 and len(BUDGETS) == 20 and 0.4 in BUDGETS
    assert COSTS[0] == 0 and COSTS[-1] == 1 and 0.4 in COSTS


@pytest.mark.parametrize("scenario", cf.SCENARIOS)
def test_points_are_policies(study, scenario):
    model = cf.CFOR(device="cpu").fit(study.train)
    x, stratum = study.test.x, study.test.stratum

    def reward(cost, budget):
        treat = cf.allocate(model.predict_reward(x, scenario, cost), budget)
        return cf.count_outcomes(treat, stratum, scenario, cost).reward

    by_budget = rewards_by_budget(model.predict_reward(x, scenario, 0.4), study, scenario)
    np.testing.assert_allclose(by_budget, [reward(0.4, b) for b in BUDGETS], atol=1e-9)
    at_zero, at_one = (model.predict_reward(x, scenario, cost) for cost in (0, 1))
    by_cost = rewards_by_cost(at_zero, at_one, study, scenario)
    np.testing.assert_allclose(by_cost, [reward(c, 0.4) for c in COSTS], atol=1e-9)


@pytest.mark.parametrize("name", ROWS_OF_TABLE4[:12])
def test_every_predicted_reward_is_affine_in_the_cost(study, name):
    model = methods.estimator(name, device="cpu").fit(study.train)
    for scenario in cf.SCENARIOS:
        at = {cost: model.predict_reward(study.test.x, scenario, cost) for cost in (0, 0.7, 1)}
        np.testing.assert_allclose(at[0] + 0.7 * (at[1] - at[0]), at[0.7], atol=1e-9)


def test_the_published_point_of_both_curves_is_table_4(tmp_path):
    options = QUICK | {"construction": "authors", "fits_dir": tmp_path / "fits"}
    table = cf.table4(**options).groupby(["scenario", "method"])["reward"].mean()
    curves = sensitivity(**options, results_dir=tmp_path)
    for curve in ("budget", "cost"):
        point = curves[(curves["curve"] == curve) & (curves["value"] == 0.4)]
        found = point.set_index(["scenario", "method"])["mean"]
        np.testing.assert_allclose(found, table.loc[found.index], atol=0.01)
        assert len(found) == 2 * len(ROWS_OF_TABLE4)
    written, record = load_results(tmp_path / "simulated", "sensitivity")
    pd.testing.assert_frame_equal(written, curves)
    assert "07_table4" in record["command"] and set(written["seeds"]) == {2}


def test_both_curves_are_lines_on_the_surface(tmp_path):
    options = QUICK | {"construction": "authors", "fits_dir": tmp_path / "fits"}
    surface = reward_surface(**options, results_dir=tmp_path)
    assert len(surface) == 2 * len(SURFACE_METHODS) * len(BUDGETS) * len(COSTS)
    curves = sensitivity(**options)
    for curve, fixed in (("budget", "cost"), ("cost", "budget")):
        line = curves[(curves["curve"] == curve) & curves["method"].isin(SURFACE_METHODS)]
        on_surface = surface[surface[fixed] == 0.4].rename(columns={curve: "value"})
        both = line.merge(on_surface, on=["scenario", "method", "value"], suffixes=("", "_there"))
        assert len(both) == len(line)
        np.testing.assert_allclose(both["mean"], both["mean_there"], atol=0.06)
        np.testing.assert_allclose(both["sd"], both["sd_there"], atol=0.06)
    written, _ = load_results(tmp_path / "simulated", "reward_surface")
    pd.testing.assert_frame_equal(written, surface)


def test_oracle_earns_most_and_never_less_with_more_budget(study):
    for scenario in cf.SCENARIOS:
        reward = stratum_rewards(scenario, 0.4)[study.test.stratum]
        curve = rewards_by_budget(reward, study, scenario)
        assert (np.diff(curve) >= 0).all()
        assert curve[-1] == (study.test.stratum == 3).sum()


def test_best_counts_fitted_methods_only_and_ties():
    rows = pd.DataFrame(
        [
            {"dataset": "d", "labelling": "l", "construction": "c", "scenario": "s", "curve": "cost",
             "value": 0.4, "method": method, "seed": seed, "reward": reward}
            for method, rewards in
            {"OR": (1.0, 5.0), "IPS": (3.0, 5.0), "Oracle": (9.0, 9.0)}.items()
            for seed, reward in enumerate(rewards)
        ]
    )  # fmt: skip
    found = over_seeds(rows).set_index("method")
    assert found["best"].to_dict() == pytest.approx({"OR": 0.5, "IPS": 1.0, "Oracle": np.nan}, nan_ok=True)
    assert found["mean"].to_dict() == {"OR": 3.0, "IPS": 4.0, "Oracle": 9.0}
