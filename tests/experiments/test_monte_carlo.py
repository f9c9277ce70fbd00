"""The Monte Carlo run: tables with provenance, whatever the number of processes, and what is published."""

from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import binom

from cfmtl_lib.experiments.evaluation.monte_carlo import (
    binomial_range,
    bound_tightness,
    coverage,
    monte_carlo,
)
from cfmtl_lib.runtime.provenance import load_results

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "monte_carlo"


def test_binomial_range_holds_what_it_says():
    for n, level in ((500, 0.95), (150, 0.9)):
        low, high = binomial_range(n, level)
        inside = binom.cdf(round(high * n), n, level) - binom.cdf(round(low * n) - 1, n, level)
        assert 0.99 <= inside < 0.995


def test_a_run_is_written_with_its_provenance_and_does_not_depend_on_processes(tmp_path):
    tables = monte_carlo(4, 300, results_dir=tmp_path, n_jobs=1)
    assert set(tables) == {"share_bias", "coverage", "bound_tightness"}
    for name, table in tables.items():
        saved, provenance = load_results(tmp_path / "monte_carlo", name)
        pd.testing.assert_frame_equal(saved, table)
        assert (
            "monte_carlo(4, 300, seed=0" in provenance["command"]
            and len(provenance["data_fingerprint"]) == 64
        )
    pd.testing.assert_frame_equal(coverage(4, 300, n_jobs=2), tables["coverage"])


def test_published_coverage_is_inside_the_99_percent_range():
    table, _ = load_results(PUBLISHED, "coverage")
    assert (table["replications"] == 500).all() and len(table) == 6
    assert table["coverage"].between(0.924, 0.974).all()
    assert (table["mean_se"] / table["sd"]).sub(1).abs().max() < 0.1


def test_published_bias_is_where_the_theorem_has_it():
    table, _ = load_results(PUBLISHED, "share_bias")
    z = (
        (table["bias"] / table["standard_error"])
        .abs()
        .groupby([table["nuisances"], table["estimator"]])
        .max()
    )
    for case in ("both right", "outcome wrong", "propensity wrong", "both fitted"):
        assert z[case, "CF-DR"] <= 3, case
    assert z["both wrong", "CF-DR"] > 8


def test_published_bound_holds_and_tightens():
    table, _ = load_results(PUBLISHED, "bound_tightness")
    assert (table["held"] >= 0.95).all()
    for _, part in table.groupby("scenario"):
        assert part.sort_values("n")["mean_gap"].is_monotonic_decreasing
    again = bound_tightness(3, sizes=(500,))
    assert again["mean_se"].to_numpy() == pytest.approx(
        table[table["n"] == 500]["mean_se"].to_numpy(), rel=0.15
    )
