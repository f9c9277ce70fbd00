"""Every argument on the way to a log with every odd value: it works, or the library refuses it."""

import datetime
import warnings
from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError

N = 8
TABLE = pd.DataFrame(
    {
        "sent": [1, 0] * 4,
        "used": [1, 0, 0, 0, 1, 0, 0, 0],
        "bought": [1, 1, 0, 0, 1, 0, 1, 0],
        "age": np.arange(N) * 1.5,
        "visits": np.arange(N),
        "city": ["a", "b"] * 4,
        "house": [1, 1, 2, 2, 3, 3, 4, 4],
    }
)
TURNS = [0, 1] * 4
ODD: list[object] = [
    *(None, "a", "", b"a", np.nan, np.inf, -1, 0, 1, 2, 2**70, -(2**70), 1.5, True, 1j, object(), range(N)),
    *([], {}, (), set(), [[1]], [[1, 2], [3]], [1] * 3, slice(None), Ellipsis, lambda: 1, np.float64, cf),
    *(
        Decimal("0.5"),
        Decimal("NaN"),
        datetime.datetime(2026, 1, 1),
        datetime.date(2026, 1, 1),
        pd.NaT,
        pd.NA,
    ),
    *(["a"] * N, [None] * N, [np.nan] * N, [2**70] * N, [True] * N, [1j] * N, [Decimal(1)] * N, [[1]] * N),
    *(
        [object()] * N,
        [{}] * N,
        [datetime.datetime(2026, 1, 1)] * N,
        np.array(3),
        np.zeros(0),
        np.zeros((0, 2)),
    ),
    np.ma.array([1] * N, mask=[1] + [0] * (N - 1)),
    *(np.array(TURNS).astype(kind) for kind in (np.uint64, np.float16, np.longdouble, str, "M8[D]", "V8")),
    *(np.zeros((N, 1)), np.zeros((N, 2, 2)), np.zeros(N, dtype=[("a", "f4"), ("b", "i4")])),
    *(pd.Series(TURNS).astype(kind) for kind in ("Int64", "boolean", "int64[pyarrow]", "category", "string")),
    *(
        pd.Series(TURNS, index=list("abcdefgh")),
        pd.Series(TURNS, index=range(1, N + 1)),
        pd.Series(TURNS)[::-1],
    ),
    *(pd.Series([0, None] * 4, dtype="Int64"), pd.Categorical(["a", "b"] * 4), pd.interval_range(0, N)),
    *(pd.Series(pd.arrays.SparseArray(TURNS)), pd.Series(pd.interval_range(0, N))),
    pd.period_range("2026", periods=N, freq="D"),
    *(pl.Series(v) for v in (TURNS, [0, None] * 4, ["a"] * N, [[1]] * N, [{"a": 1}] * N, [None] * N)),
    *(pa.array(v) for v in (TURNS, [0, None] * 4, [b"a"] * N, [[1]] * N, [])),
    pa.chunked_array([[0, 1] * 2, [0, 1] * 2]),
    *(TABLE, TABLE[["age"]], TABLE[["visits", "house"]], TABLE[:0], TABLE[[]], TABLE.astype("category")),
    *(TABLE.astype(str), TABLE.astype(object), TABLE.assign(age=np.inf), TABLE.assign(age=[[1]] * N)),
    *(
        TABLE.set_axis(range(7), axis=1),
        TABLE.set_axis(list("abcdefgh"), axis=0),
        pd.concat([TABLE, TABLE], axis=1),
    ),
    TABLE.set_axis(pd.MultiIndex.from_product([["x"], TABLE.columns]), axis=1),
    *(pl.from_pandas(TABLE), pl.from_pandas(TABLE).lazy(), pa.Table.from_pandas(TABLE)),
]

OUTCOMES = TABLE[["sent", "used", "bought"]]
FEATURES = {
    "x": TABLE[["age"]].to_numpy(),
    "t": TABLE["sent"].to_numpy(),
    "c": TABLE["used"].to_numpy(),
    "y": TABLE["bought"].to_numpy(),
}
IDS = TABLE[["house", "visits"]].to_numpy()
PAIRS = FEATURES | {"x": IDS}
ROLES = {"treatment": "sent", "collected": "used", "converted": "bought", "features": ["age", "city"]}


def log_of_table(table=TABLE, **options):
    return cf.IncentiveLog.from_frame(table, **(ROLES | options))


def with_column(name: str, call: Callable[[pd.DataFrame], object]) -> Callable[[object], object]:
    """Put a value into a column first, where pandas takes it."""

    def placed(value):
        try:
            table = TABLE.assign(**{name: value})
        except Exception:  # what pandas itself refuses says nothing about the library
            return None
        return call(table)

    return placed


LOGS = {"table": log_of_table(), "floats": cf.IncentiveLog(**FEATURES), "pairs": cf.IncentiveLog(**PAIRS)}
ENCODER = LOGS["table"].encoder
CALLS: dict[str, Callable[[object], object]] = {
    **{
        f"IncentiveLog {name}": lambda v, name=name: cf.IncentiveLog(**(FEATURES | {name: v}))
        for name in (*FEATURES, "propensity", "cluster", "encoder", "index", "pairs", "missing_collected")
    },
    **{
        f"IncentiveLog {name} of pairs": lambda v, name=name: cf.IncentiveLog(**(PAIRS | {name: v}))
        for name in ("n_users", "n_items", "pairs", "encoder")
    },
    "numbers beside pairs": lambda v: cf.IncentiveLog(**(FEATURES | {"x": (IDS, v)})),
    "pairs beside numbers": lambda v: cf.IncentiveLog(**(FEATURES | {"x": (v, FEATURES["x"])})),
    "from_frame frame": log_of_table,
    **{
        f"from_frame {name}": lambda v, name=name: log_of_table(**{name: v})
        for name in (*ROLES, "categories", "propensity", "cluster", "encoder", "missing_collected")
    },
    **{f"column {name}": with_column(name, log_of_table) for name in (*OUTCOMES, "age", "city")},
    "column named as category": with_column("city", lambda table: log_of_table(table, categories=["city"])),
    **{f"later column {name}": with_column(name, ENCODER.encode) for name in ("age", "city")},
    "later column as missing": with_column("city", lambda table: ENCODER.encode(table, "missing")),
    "from_xy x": lambda v: cf.IncentiveLog.from_xy(v, OUTCOMES),
    "from_xy y": lambda v: cf.IncentiveLog.from_xy(TABLE[["age"]], v),
    "from_xy pairs": lambda v: cf.IncentiveLog.from_xy(IDS, OUTCOMES, pairs=v),
    "InputSchema.from_log": lambda v: cf.InputSchema.from_log(v),
    **{f"take of {kind}": lambda v, log=log: log.take(v) for kind, log in LOGS.items()},
    **{
        f"matrix of {kind}": lambda v, log=log: cf.InputSchema.from_log(log).matrix(v)
        for kind, log in LOGS.items()
    },
    "matrix unknown": lambda v: cf.InputSchema.from_log(LOGS["table"]).matrix(TABLE, v),
    "split share": LOGS["table"].split,
    "split seed": lambda v: LOGS["table"].split(0.5, seed=v),
    "clusters": LOGS["table"].clusters,
    "encode frame": ENCODER.encode,
    "encode unknown": lambda v: ENCODER.encode(TABLE, v),
    "check": ENCODER.check,
    "learn frame": lambda v: cf.FrameEncoder.learn(v, ["age"]),
    "learn features": lambda v: cf.FrameEncoder.learn(TABLE, v),
    "learn categories": lambda v: cf.FrameEncoder.learn(TABLE, ["age", "visits"], v),
    **{
        f"of_pairs {name}": lambda v, name=name: cf.FrameEncoder.of_pairs(
            **({"n_users": 2, "n_items": 2, "n_numbers": 2} | {name: v})
        )
        for name in ("n_users", "n_items", "n_numbers")
    },
}


@pytest.mark.parametrize("name", CALLS)
def test_odd_values_work_or_are_refused_by_the_library(name):
    unlike = []
    for value in ODD:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                CALLS[name](value)
            except InputError as error:
                if ": expected " not in str(error) or ", found " not in str(error) or len(str(error)) > 900:
                    unlike.append((str(value)[:60], str(error)[:200]))
            except Exception as error:  # what the test is for
                unlike.append((str(value)[:60], f"{type(error).__name__}: {str(error)[:200]}"))
    assert not unlike, unlike
