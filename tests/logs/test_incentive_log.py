import numpy as np
import pytest

from cfmtl_lib.errors import LogError
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.validation import check_pairs

GOOD = {"x": [[0, 0], [1, 1], [0, 1]], "t": [1, 0, 1], "c": [1, 0, 0], "y": [1, 1, 0]}


def test_a_good_log_is_kept_as_given():
    log = IncentiveLog(**GOOD, propensity=[0.5, 0.4, 0.3])
    assert (log.n_users, log.n_items, len(log), log.is_pairs) == (2, 2, 3, True)
    assert log.cell.tolist() == [3, 4, 0]
    assert log.x.dtype == np.int64 and log.t.dtype == np.int8


def test_features_are_accepted():
    log = IncentiveLog(**GOOD | {"x": np.zeros((3, 4))})
    assert not log.is_pairs and log.n_users is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"t": [1, 0]}, r"t: expected shape \(3,\).*found shape \(2,\)"),
        ({"t": [1, 0, 2]}, r"t: expected 0 or 1, found 2 \(first at row 2\)"),
        ({"y": [1, np.nan, 0]}, r"y: expected 0 or 1, found a missing value \(first at row 1\)"),
        (
            {"y": ["1", "0", "1"]},
            r"y: .* found '1' \(first at row 0\)\. It holds '0' and '1'\. Recode it",
        ),
        ({"c": [1, 1, 0]}, r"c: expected 0 wherever t is 0, found 1 \(first at row 1\)"),
        ({"t": [1, 1, 1]}, "no row with t = 0"),
        ({"t": [0, 0, 0], "c": [0, 0, 0]}, "no row with t = 1"),
        ({"x": [[0, 0], [1, -1], [0, 1]]}, r"ids >= 0.*row 1"),
        ({"x": [[0, 0, 0]] * 3}, "as floats"),
        ({"x": [0, 1, 2]}, "shape"),
        ({"x": np.zeros((0, 2), dtype=int), "t": [], "c": [], "y": []}, "shape"),
        ({"x": np.array([[0.0], [np.nan], [1.0]])}, r"finite features.*row 1"),
        ({"x": np.array([["a", "b"]] * 3)}, "integer pairs or float features"),
        ({"propensity": [0.5, 1.0, 0.5]}, r"propensity.*overlap.*row 1"),
        ({"propensity": [0.5, np.nan, 0.5]}, r"propensity.*row 1"),
        ({"propensity": [0.5]}, "propensity: expected shape"),
        ({"n_users": 1}, "n_users: expected at least 2"),
    ],
)
def test_bad_logs_are_refused(change, message):
    with pytest.raises(LogError, match=message):
        IncentiveLog(**GOOD | change)


def test_ids_beyond_the_fitted_space_are_refused():
    with pytest.raises(LogError, match=r"item id.*ids 0-3.*found 4 \(first at row 1\)"):
        check_pairs([[0, 0], [1, 4]], n_users=2, n_items=4)
    with pytest.raises(LogError, match="fitted on pairs"):
        check_pairs([[0.5, 1.0]], n_users=2, n_items=4)
