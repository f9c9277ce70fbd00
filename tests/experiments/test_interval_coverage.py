"""Coverage of default intervals, and the published table of it."""

from pathlib import Path

import numpy as np
import pytest

from cfmtl_lib.errors import UnknownNameError
from cfmtl_lib.experiments.evaluation.interval_coverage import COLUMNS, QUANTITIES, interval_coverage
from cfmtl_lib.experiments.evaluation.worlds import WORLDS, draw_log
from cfmtl_lib.runtime.provenance import load_results

PUBLISHED = Path(__file__).parents[2] / "results" / "monte_carlo"


def test_a_small_study_has_every_quantity_and_writes_it(tmp_path):
    table = interval_coverage(2, ["small log"], n_jobs=1, results_dir=tmp_path)
    assert list(table.columns) == COLUMNS and table["quantity"].tolist() == list(QUANTITIES)
    assert table["coverage"].between(0, 1).all() and (table["replications"] == 2).all()
    written, provenance = load_results(tmp_path / "monte_carlo", "interval_coverage")
    np.testing.assert_allclose(written["truth"].dropna(), table["truth"].dropna())
    assert provenance["seeds"] == [0]
    with pytest.raises(UnknownNameError, match="world"):
        interval_coverage(2, ["flat"])


@pytest.mark.parametrize("name", WORLDS)
def test_logs_are_drawn_as_their_world_says(name):
    world = WORLDS[name]
    drawn = draw_log(world, [0, 0])
    log = drawn.log
    assert len(log) == world.n and drawn.x.shape == (world.n, world.n_features)
    np.testing.assert_allclose(drawn.strata_probability.sum(axis=1), 1)
    assert (log.propensity is not None) == world.known
    if world.by_rule:
        np.testing.assert_array_equal(log.t == 1, world.treatment(drawn.x) > 0)
    if world.cluster_size > 1:
        assert len(np.unique(log.cluster)) == world.n // world.cluster_size
        assert all(len(np.unique(log.t[log.cluster == k])) == 1 for k in range(20))
    if name == "strong confounding":
        e = 1 / (1 + np.exp(-world.treatment(drawn.x)))
        assert (e < 0.02).mean() > 0.02 and (e > 0.98).mean() > 0.02  # the bounds are reached


def test_published_intervals_cover_or_say_that_they_do_not():
    table, _ = load_results(PUBLISHED, "interval_coverage")
    assert set(table["world"]) == set(WORLDS) and (table["replications"] >= 300).all()
    covers = table["coverage"].between(0.92, 0.98)
    told = table["cautioned"] >= 0.95
    assert (covers | told).all(), table[~(covers | told)]
    assert told[table["world"] == "rule"].all()
