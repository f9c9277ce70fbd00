"""The table of accuracy on features: what each column means, and where it goes."""

import json

import numpy as np
import pandas as pd
import pytest

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError
from cfmtl_lib.experiments.evaluation.campaign_accuracy import CAMPAIGN_METHODS, accuracy_of, feature_accuracy


def test_the_truth_itself_is_judged_perfect():
    later = cf.simulated_campaign(500, seed=1)

    class Oracle:
        def predict_strata(self, table):
            return later.strata_probability

        def predict_reward(self, table, scenario, cost):
            return cf.expected_reward(later.strata_probability, scenario, cost)

    found = accuracy_of(Oracle(), later)
    assert found.pop("coupon_reward") == found.pop("cash_reward") == 1.0
    assert set(found.values()) == {0.0} and len(found) == 6


def test_rows_and_files(tmp_path):
    names = ["Naive, boosting", "CF-OR, logistic"]
    table = feature_accuracy(
        2, (400, 800), methods=names, later_rows=1000, results_dir=tmp_path, progress=False
    )
    assert table[["rows", "seed"]].drop_duplicates().values.tolist() == [
        [400, 0],
        [400, 1],
        [800, 0],
        [800, 1],
    ]
    assert table["method"].tolist() == names * 4
    assert table.loc[table["method"] == "Naive, boosting", "error"].isna().all()
    with_strata = table[table["method"] == "CF-OR, logistic"]
    parts = with_strata.filter(like="error_")
    np.testing.assert_allclose(parts.mean(axis=1), with_strata["error"])
    assert parts.shape[1] == 5 and (table["coupon_reward"] < 1).all()
    kept = pd.read_csv(tmp_path / "simulated-campaign" / "accuracy.csv")
    pd.testing.assert_frame_equal(kept, table)
    assert json.loads((tmp_path / "simulated-campaign" / "accuracy.json").read_text())["seeds"] == [0, 1]
    with pytest.raises(InputError, match="seeds"):
        feature_accuracy(0)
    assert len(CAMPAIGN_METHODS) == 8
