"""Estimated against true values: on a small study, and what the published run must show."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import cfmtl_lib as cf
from cfmtl_lib.errors import UnknownNameError
from cfmtl_lib.experiments import studies
from cfmtl_lib.experiments.evaluation.value_accuracy import (
    SOURCES,
    log_of_test_pairs,
    nuisances_for,
    policy_check,
    propensity_diagnostics,
)
from cfmtl_lib.runtime.provenance import load_results
from cfmtl_lib.strata import observe

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "ml-1m"
QUICK = {"device": "cpu", "n_jobs": 1, "progress": False, "construction": "authors"}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    def small_study(source, data_dir, labelling, construction, seed, *, device, n_jobs=1, cache=None):
        return cf.simulated(labelling, construction, seed, n_users=40, n_items=30, n_pairs=1150)

    monkeypatch.setattr(studies, "load_study", small_study)


def test_the_log_of_the_test_pairs_shows_what_a_log_shows():
    study = cf.simulated(n_users=60, n_items=60, n_pairs=3000)
    judged = log_of_test_pairs(study)
    log, e = judged.log, study.test.propensity
    np.testing.assert_array_equal(log.x, study.test.x)
    np.testing.assert_array_equal(log.propensity, e)
    collected, converted = observe(study.test.stratum, log.t)
    assert (log.c == collected).all() and (log.y == converted).all()
    assert abs((log.t - e).sum()) <= 3 * np.sqrt((e * (1 - e)).sum())
    assert log.t.tolist() == log_of_test_pairs(study).log.t.tolist()
    # The control is independent of the treatment given x: a residual has no correlation with it.
    residual = (log.t - e) * (judged.control - judged.control.mean())
    assert abs(residual.sum()) <= 3 * np.sqrt(np.square(residual).sum())


def test_a_run_has_every_row_and_agrees_with_table_4(tmp_path):
    options = QUICK | {"seeds": 1, "fits_dir": tmp_path / "fits"}
    values, raised = policy_check(**options, results_dir=tmp_path)
    assert len(values) == len(SOURCES) * 12 * 2 and len(raised) == len(SOURCES)
    table = cf.table4(**options).set_index(["scenario", "method"])["reward"]
    by_policy = values.groupby(["scenario", "method"])["true_reward"].agg(["min", "max"])
    for key, found in by_policy.iterrows():
        assert found["min"] == found["max"] == pytest.approx(table[key], abs=1e-6)
    assert values["standard_error"].gt(0).all() and values["robustness_value"].dropna().between(0, 1).all()
    assert values[values["nuisances"] == "known"]["robustness_value"].notna().all()
    saved, provenance = load_results(tmp_path / "simulated", "policy_values")
    pd.testing.assert_frame_equal(saved, values, check_dtype=False)
    assert "06_policy" in provenance["command"]
    assert (tmp_path / "simulated" / "propensity_alarms.csv").exists()


def test_sources_share_what_they_share():
    study = cf.simulated(n_users=40, n_items=30, n_pairs=1150)
    judged = log_of_test_pairs(study)
    found = nuisances_for(study, judged.log, device="cpu")
    assert tuple(found) == SOURCES
    np.testing.assert_array_equal(found["known"].propensity, study.test.propensity)
    np.testing.assert_array_equal(found["known"].converted_treated, found["additive"].converted_treated)
    richest = found["boosted trees, factorised outcomes"]
    np.testing.assert_array_equal(richest.propensity, found["boosted trees"].propensity)
    assert not np.array_equal(richest.converted_treated, found["additive"].converted_treated)
    assert [n.propensity_is_known for n in found.values()] == [True, False, False, False, False]
    assert set(propensity_diagnostics(judged, found["known"])) == {
        "log_loss",
        "calibration_p",
        "control_effect",
        "control_standard_error",
        "implications_violated",
        "effective_sample_size_treated",
        "effective_sample_size_untreated",
    }
    with pytest.raises(UnknownNameError, match="nuisances"):
        nuisances_for(study, judged.log, ["oracle"], device="cpu")
    with pytest.raises(UnknownNameError, match="nuisances"):
        policy_check(**QUICK, sources=["oracle"])


def test_the_published_run_is_right_with_the_known_propensity_and_off_without():
    values, _ = load_results(PUBLISHED, "policy_values")
    raised, _ = load_results(PUBLISHED, "propensity_alarms")
    values["z"] = (values["estimate"] - values["true_reward"]) / values["standard_error"]
    table4 = values[values["method"].isin(cf.METHODS)]
    within = table4["z"].abs().le(3).groupby([table4[c] for c in ("construction", "nuisances", "seed")]).sum()
    assert (within.xs("known", level="nuisances") >= 17).all(), within
    authors = table4[(table4["construction"] == "authors") & (table4["nuisances"] == "additive")]
    assert authors["z"].min() > 20
    control = raised["control_effect"] / raised["control_standard_error"]
    assert control[raised["nuisances"] == "known"].abs().max() <= 4
