"""Variants of the fits: the same studies, other fits, differences paired by seed."""

import joblib
import numpy as np
import pandas as pd
import pytest

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError, UnknownNameError
from cfmtl_lib.experiments.methods import METHODS, estimator
from cfmtl_lib.experiments.paper import fit_variants as module
from cfmtl_lib.experiments.paper.fit_variants import VARIANT_COLUMNS, differences_of_variants
from cfmtl_lib.runtime.provenance import load_results


@pytest.fixture
def small(monkeypatch):
    """Small studies in place of the default simulation."""
    from cfmtl_lib.experiments import studies

    monkeypatch.setattr(
        studies,
        "load_study",
        lambda source, data_dir, labelling, construction, seed, **_: cf.simulated(
            labelling, construction, seed, n_users=60, n_items=50, n_pairs=2000
        ),
    )


def test_the_paper_variant_is_table_4(small, tmp_path):
    options = {"construction": "authors", "seeds": 2, "methods": ["OR", "CF-MTL"], "progress": False}
    variants = {"paper": {}, "short": {"max_epochs": 2, "tolerance": 1.0, "patience": 1}}
    table = cf.fit_variants(results_dir=tmp_path, variants=variants, **options)
    assert list(table) == VARIANT_COLUMNS and len(table) == 2 * 2 * 2 * 2
    of_paper = table[table["variant"] == "paper"].set_index(["scenario", "method", "seed"])["reward"]
    published = cf.table4(**options).set_index(["scenario", "method", "seed"])["reward"]
    assert of_paper.to_dict() == published.to_dict()
    epochs = table.groupby(["variant", "method"])["epochs"].max()
    assert epochs["short", "OR"] == 4 and epochs["short", "CF-MTL"] == 2  # OR has two fits
    assert (epochs["paper"] > epochs["short"]).all()
    stored, record = load_results(tmp_path / "simulated", "fit_variants")
    pd.testing.assert_frame_equal(stored, table, check_dtype=False)
    assert "'short': {'max_epochs': 2" in record["command"]


def test_differences_are_paired_by_seed():
    rng = np.random.default_rng(0)
    base, gain = rng.normal(1000, 300, 6), rng.normal(10, 2, 6)
    key = {"labelling": "code", "construction": "authors", "scenario": "coupon", "method": "OR"}
    table = pd.DataFrame(
        [key | {"variant": "paper", "seed": k, "reward": base[k]} for k in range(6)]
        + [key | {"variant": "additive", "seed": k, "reward": base[k] + gain[k]} for k in range(6)]
    )
    (row,) = differences_of_variants(table).to_dict("records")
    assert row["difference"] == pytest.approx(gain.mean())
    assert row["standard_error"] == pytest.approx(gain.std(ddof=1) / 6**0.5)
    assert row["percent"] == pytest.approx(100 * gain.mean() / base.mean())
    assert row["high"] - row["difference"] == pytest.approx(2.5706 * row["standard_error"], rel=1e-4)
    with pytest.raises(UnknownNameError, match="baseline"):
        differences_of_variants(table, "plain")


def test_settings_reach_every_fit_of_a_method():
    for name in METHODS:
        configs = [
            value
            for value in estimator(name, parametrisation="additive").get_params().values()
            if isinstance(value, cf.FitConfig)
        ]
        assert configs and {config.parametrisation for config in configs} == {"additive"}
    assert module.VARIANTS["paper"] == {}


def test_nothing_to_compare_is_refused():
    with pytest.raises(InputError, match="at least one of each"):
        cf.fit_variants(variants={})
    with pytest.raises(UnknownNameError, match="method"):
        cf.fit_variants(methods=["XGB"])


@pytest.mark.slow
def test_studies_go_where_joblib_is_told_to_send_them():
    """Processes in place of threads, as a cluster's backend would have it: the same rows."""
    options = {"seeds": 2, "construction": "authors", "methods": ["OR"], "progress": False}
    here = cf.table4(**options)
    with joblib.parallel_config("loky", n_jobs=2):
        there = cf.table4(**options)
    pd.testing.assert_frame_equal(here, there)
