"""Parts of a log keep all that belongs to their rows; roles, spaces and bounds are checked at their edge."""

import numpy as np
import pandas as pd
import pytest

import cfmtl_lib as cf
from cfmtl_lib.errors import LogError
from cfmtl_lib.logs.schema import InputSchema

N = 60
USER = np.arange(N) // 4
TABLE = pd.DataFrame(
    {
        "sent": np.arange(N) % 2,
        "used": (np.arange(N) % 4 == 1).astype(int),
        "bought": (np.arange(N) % 3 == 0).astype(int),
        "age": np.arange(N) + 0.5,
        "city": [("Oslo", "Bergen", "Hamar")[k % 3] for k in range(N)],
        "user": [f"u{k:02}" for k in USER],
        "e": np.linspace(0.2, 0.8, N),
    }
)
ROLES = {"treatment": "sent", "collected": "used", "converted": "bought"}


def of_table(**options):
    return cf.IncentiveLog.from_frame(TABLE, **(ROLES | {"features": ["age", "city"]} | options))


@pytest.fixture
def log():
    return of_table(cluster="user", propensity="e")


@pytest.mark.parametrize("rows", [np.array([5, 2, 40, 7]), np.arange(N) % 5 < 2], ids=["positions", "mask"])
def test_a_part_has_all_columns_of_its_rows(rows, log):
    part = log.take(rows)
    for name in ("x", "t", "c", "y", "propensity", "cluster"):
        np.testing.assert_array_equal(getattr(part, name), getattr(log, name)[rows], err_msg=name)
    assert part.encoder == log.encoder


def test_columns_of_a_table_are_those_of_the_log(log):
    np.testing.assert_array_equal(log.propensity, TABLE["e"])
    np.testing.assert_array_equal(np.unique(log.cluster, return_inverse=True)[1], USER)
    for name, column in (("t", "sent"), ("c", "used"), ("y", "bought")):
        np.testing.assert_array_equal(getattr(log, name), TABLE[column])
    np.testing.assert_array_equal(log.x[:, 0], TABLE["age"])
    np.testing.assert_array_equal(log.take(log.x[:, 0] > 9).x[:, 0], TABLE["age"][9:])


def test_a_split_keeps_clusters_whole_and_follows_its_seed(log):
    first, second = log.split(0.4, seed=1)
    assert not set(first.cluster) & set(second.cluster)
    assert len(np.unique(first.cluster)) == 6 and len(first) == 24 and len(second) == 36
    mask = log.split_mask(0.4, seed=1)
    np.testing.assert_array_equal(first.x, log.x[mask])
    np.testing.assert_array_equal(second.x, log.x[~mask])
    np.testing.assert_array_equal(mask, log.split_mask(0.4, seed=1))
    assert (mask != log.split_mask(0.4, seed=2)).any()
    alone = of_table().split_mask(0.4, seed=1)
    assert (
        alone.sum() == 24 and np.ptp(alone.reshape(15, 4).sum(axis=1)) > 0
    )  # rows, if there are no clusters


@pytest.mark.parametrize("role", ROLES)
def test_no_role_is_a_feature(role):
    with pytest.raises(LogError, match=f"features: .*'{ROLES[role]}', the column of {role}"):
        of_table(features=["age", ROLES[role]])


def test_labels_that_are_given_go_before_those_of_the_log(log):
    given = np.arange(N)
    assert log.clusters(given) is given
    np.testing.assert_array_equal(log.clusters(), log.cluster)
    assert of_table().clusters() is None


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, 1.1, np.nan])
def test_a_known_propensity_lies_inside_its_bounds(bad):
    e = np.where(np.arange(N) == 3, bad, 0.5)
    with pytest.raises(LogError, match=r"propensity: .*row 3"):
        of_table(propensity=e)


def test_nothing_is_collected_that_was_not_given():
    t, c = [1, 0, 0, 1], [1, 0, 1, 0]
    with pytest.raises(LogError, match=r"c: expected 0 wherever t is 0, found 1 \(first at row 2\)"):
        cf.IncentiveLog(np.zeros((4, 1)), t, c, [0] * 4)
    table = pd.DataFrame({"sent": t, "used": c, "bought": 0, "age": 1.0})
    with pytest.raises(LogError, match=r"'used': expected 0 wherever 'sent' is 0.*row 2"):
        cf.IncentiveLog.from_frame(table, **ROLES, features=["age"])


def test_spaces_of_ids_hold_the_largest_and_nothing_beyond():
    pairs = np.array([[0, 6], [3, 1], [2, 0]])
    log = cf.IncentiveLog(pairs, [1, 0, 1], [0] * 3, [0] * 3)
    assert log.pair_space == (4, 7)
    assert cf.IncentiveLog(pairs, [1, 0, 1], [0] * 3, [0] * 3, n_users=4, n_items=9).pair_space == (4, 9)
    for sizes, name in (({"n_users": 3}, "n_users: expected at least 4"), ({"n_items": 6}, "n_items")):
        with pytest.raises(LogError, match=name):
            cf.IncentiveLog(pairs, [1, 0, 1], [0] * 3, [0] * 3, **sizes)
    schema = InputSchema.from_log(log)
    np.testing.assert_array_equal(schema.matrix([[3, 6]]), [[3, 6]])
    for beyond, name in (([4, 6], "user id"), ([3, 7], "item id")):
        with pytest.raises(LogError, match=rf"{name}.*row 1"):
            schema.matrix([[0, 0], beyond])
    with pytest.raises(LogError, match=r"ids >= 0.*row 1"):
        cf.IncentiveLog([[0, 0], [-1, 2]], [1, 0], [0, 0], [0, 0])


def test_a_log_of_other_codes_is_refused_and_one_of_the_same_is_not(log):
    schema = InputSchema.from_log(log)
    swapped = TABLE.assign(city=TABLE["city"].replace({"Oslo": "Tromsø"}))
    other = cf.IncentiveLog.from_frame(swapped, **ROLES, features=["age", "city"])
    with pytest.raises(LogError, match="another encoder"):
        schema.matrix(other)
    plain = cf.IncentiveLog(np.array(log.x), log.t, log.c, log.y)
    with pytest.raises(LogError, match="another encoder"):
        schema.matrix(plain)
    with pytest.raises(LogError, match="another encoder"):
        InputSchema.from_log(plain).matrix(log)
    np.testing.assert_array_equal(schema.matrix(of_table()), log.x)
