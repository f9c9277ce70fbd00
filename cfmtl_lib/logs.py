"""The incentive log: who was given an incentive, who collected it, who converted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cfmtl_lib.errors import LogError
from cfmtl_lib.frames import FrameEncoder, column_of, numeric_column
from cfmtl_lib.strata import observed_cell


@dataclass(frozen=True, eq=False)
class IncentiveLog:
    """A validated log of n units. Its constructor is the one place where logs are checked.

    Parameters
    ----------
    x : array_like of shape (n, 2), integer, or (n, p), float
        User and item index of each row (from 0), or features.
    t, c, y : array_like of shape (n,), 0/1
        Incentive given, incentive collected, converted.
    propensity : array_like of shape (n,), float in (0, 1), optional
        Known P(T=1 | x), where the assignment was designed.
    n_users, n_items : int, optional
        Size of the id spaces, where ids beyond those of the log will be asked for later.
        The largest id plus one if left out. Only for pairs.
    cluster : array_like of shape (n,), optional
        Which rows were assigned together or behave alike, e.g. the user of each. Errors of values and
        folds of nuisances go by it.
    encoder : FrameEncoder, optional
        How the features were made of a table's columns (see :meth:`from_frame`). With it, missing numbers
        (NaN) are allowed.

    Raises
    ------
    LogError
        On wrong shapes, values other than 0/1, NaN, a collected incentive that was not given,
        a propensity outside (0, 1), ids outside their space, or an arm without rows.

    Examples
    --------
    >>> log = IncentiveLog(x=[[0, 0], [0, 1], [1, 0]], t=[1, 0, 1], c=[1, 0, 0], y=[1, 0, 0])
    >>> log
    IncentiveLog(3 pairs of 2 users and 2 items: 2 treated, 1 collected, 1 converted)
    >>> IncentiveLog(x=[[0, 0], [0, 1]], t=[0, 1], c=[1, 0], y=[1, 0])
    Traceback (most recent call last):
    ...
    cfmtl_lib.errors.LogError: c: expected 0 wherever t is 0, found 1 (first at row 0). Nothing can \
be collected that was not given: check how t and c were joined.
    """

    x: NDArray
    t: NDArray[np.int8]
    c: NDArray[np.int8]
    y: NDArray[np.int8]
    propensity: NDArray[np.float64] | None = None
    n_users: int | None = None
    n_items: int | None = None
    cluster: NDArray | None = None
    encoder: FrameEncoder | None = None
    is_pairs: bool = field(init=False)

    def __post_init__(self) -> None:
        x, is_pairs = _checked_x(self.x) if self.encoder is None else (self.encoder.check(self.x), False)
        n = len(x)
        put = object.__setattr__  # frozen: the checked arrays replace what was passed
        put(self, "x", x)
        put(self, "is_pairs", is_pairs)
        for name in ("t", "c", "y"):
            put(self, name, _checked_binary(name, getattr(self, name), n))
        not_given = np.flatnonzero((self.c == 1) & (self.t == 0))
        if not_given.size:
            raise LogError(
                "c",
                expected="0 wherever t is 0",
                found="1",
                row=int(not_given[0]),
                advice="Nothing can be collected that was not given: check how t and c were joined.",
            )
        for arm in (0, 1):
            if not (self.t == arm).any():
                raise LogError(
                    "t",
                    expected="rows in both arms",
                    found=f"no row with t = {arm} among {n}",
                    advice="Effects need treated and untreated rows.",
                )
        if self.propensity is not None:
            put(self, "propensity", _checked_propensity(self.propensity, n))
        if self.cluster is not None:
            put(self, "cluster", _checked_labels(self.cluster, n))
        for name, ids in (("n_users", x[:, 0]), ("n_items", x[:, -1])):
            put(self, name, _checked_size(name, getattr(self, name), ids) if is_pairs else None)

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        *,
        treatment: str,
        collected: str,
        converted: str,
        features: Sequence[str],
        propensity: str | ArrayLike | None = None,
        cluster: str | ArrayLike | None = None,
    ) -> Self:
        """Take a log from a table of campaign rows, and remember how its features were made.

        Parameters
        ----------
        frame : DataFrame
            A row a unit.
        treatment, collected, converted : str
            Columns of 0/1 (or booleans), without missing values.
        features : sequence of str
            Columns known *before* the assignment: numbers, booleans, or texts (categories). Missing values
            are allowed and stay missing.
        propensity : str or array_like of shape (n,), optional
            Column, or values, of the known P(T=1 | x).
        cluster : str or array_like of shape (n,), optional
            Column, or labels, of what was assigned together.

        Returns
        -------
        IncentiveLog
            With float features and their ``encoder``.

        Raises
        ------
        LogError
            Naming the column, what was expected of it, what was found, and the first row where it is so.

        Examples
        --------
        >>> rows = pd.DataFrame(
        ...     {"sent": [1, 0, 1], "used": [1, 0, 0], "bought": [1, 1, 0], "age": [30, 41, None],
        ...      "city": ["Oslo", "Bergen", "Oslo"]}
        ... )
        >>> IncentiveLog.from_frame(
        ...     rows, treatment="sent", collected="used", converted="bought", features=["age", "city"]
        ... )
        IncentiveLog(3 rows of 2 features: 2 treated, 1 collected, 2 converted)
        """
        roles = {"treatment": treatment, "collected": collected, "converted": converted}
        for role, name in roles.items():
            if name in features:
                raise LogError(
                    "features",
                    expected="columns known before the assignment",
                    found=f"{name!r}, the column of {role}",
                    advice="A feature that the assignment can change makes every estimate wrong.",
                )
        columns = {role: _binary_column(frame, name) for role, name in roles.items()}
        t, c = columns["treatment"], columns["collected"]
        not_given = np.flatnonzero((c == 1) & (t == 0))
        if not_given.size:
            raise LogError(
                f"column {collected!r}",
                expected=f"0 wherever {treatment!r} is 0",
                found="1",
                row=int(not_given[0]),
                advice="Nothing can be collected that was not given: check how the two were joined.",
            )
        if isinstance(propensity, str):
            propensity = numeric_column(frame, propensity)
        if isinstance(cluster, str):
            cluster = column_of(frame, cluster).to_numpy()
        encoder = FrameEncoder.learn(frame, list(features))
        return cls(
            x=encoder.encode(frame),
            t=t,
            c=c,
            y=columns["converted"],
            propensity=None if propensity is None else np.asarray(propensity, dtype=np.float64),
            cluster=None if cluster is None else np.asarray(cluster),
            encoder=encoder,
        )

    def __len__(self) -> int:
        return len(self.t)

    def __repr__(self) -> str:
        what = (
            f"pairs of {self.n_users:,} users and {self.n_items:,} items"
            if self.is_pairs
            else f"rows of {self.x.shape[1]} features"
        )
        return (
            f"IncentiveLog({len(self):,} {what}: {int(self.t.sum()):,} treated, "
            f"{int(self.c.sum()):,} collected, {int(self.y.sum()):,} converted)"
        )

    @property
    def pair_space(self) -> tuple[int, int]:
        """Number of users and of items.

        Raises
        ------
        LogError
            If the log holds features instead of pairs.
        """
        if self.n_users is None or self.n_items is None:
            raise LogError(
                "x",
                expected="(n, 2) integer user and item ids",
                found=f"{self.x.shape[1]} float features",
                advice="The networks of the paper know pairs only.",
            )
        return self.n_users, self.n_items

    def clusters(self, given: ArrayLike | None = None) -> ArrayLike | None:
        """The labels given, or the log's own; None if there are neither and rows are independent."""
        return self.cluster if given is None else given

    @property
    def cell(self) -> NDArray[np.int8]:
        """Observed cell of each row, an index into :data:`~cfmtl_lib.strata.CELLS`; shape (n,)."""
        return observed_cell(self.t, self.c, self.y)


def check_pairs(x: ArrayLike, n_users: int, n_items: int) -> NDArray[np.int64]:
    """Return x as (n, 2) int64 pairs, or raise :class:`LogError` naming the first id outside its space."""
    pairs, is_pairs = _checked_x(x)
    if not is_pairs:
        raise LogError(
            "x",
            expected="(n, 2) integer user and item ids",
            found=f"{pairs.dtype} of shape {pairs.shape}",
            advice="This model was fitted on pairs.",
        )
    for name, size, ids in (("user", n_users, pairs[:, 0]), ("item", n_items, pairs[:, 1])):
        beyond = np.flatnonzero(ids >= size)
        if beyond.size:
            raise LogError(
                f"x ({name} id)",
                expected=f"ids 0-{size - 1}, the space of the log that was fitted",
                found=str(ids[beyond[0]]),
                row=int(beyond[0]),
                advice=f"Give IncentiveLog(..., n_{name}s=...) the full space before fitting.",
            )
    return pairs


def _checked_x(value: ArrayLike) -> tuple[NDArray, bool]:
    x = np.asarray(value)
    if x.ndim != 2 or x.shape[0] == 0 or x.shape[1] == 0:
        raise LogError("x", expected="shape (n, 2) or (n, p) with n, p > 0", found=f"shape {x.shape}")
    if x.dtype.kind in "iu":
        if x.shape[1] != 2:
            raise LogError(
                "x",
                expected="two columns of ids, or float features",
                found=f"integers of shape {x.shape}",
                advice="Pass features as floats: x.astype(float).",
            )
        negative = np.flatnonzero((x < 0).any(axis=1))
        if negative.size:
            raise LogError("x", expected="ids >= 0", found=str(x[negative[0]].tolist()), row=int(negative[0]))
        return np.ascontiguousarray(x, dtype=np.int64), True
    if x.dtype.kind != "f":
        raise LogError("x", expected="integer pairs or float features", found=f"dtype {x.dtype}")
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if bad.size:
        raise LogError("x", expected="finite features", found="NaN or infinity", row=int(bad[0]))
    return np.ascontiguousarray(x), False


def _checked_binary(name: str, value: ArrayLike, n: int) -> NDArray[np.int8]:
    column = np.asarray(value)
    if column.shape != (n,):
        raise LogError(name, expected=f"shape ({n},), one value a row of x", found=f"shape {column.shape}")
    if column.dtype.kind not in "biuf":
        raise LogError(name, expected="0/1 numbers", found=f"dtype {column.dtype}")
    wrong = np.flatnonzero((column != 0) & (column != 1))  # NaN differs from both
    if wrong.size:
        raise LogError(name, expected="0 or 1", found=str(column[wrong[0]]), row=int(wrong[0]))
    return column.astype(np.int8)


def _binary_column(frame: pd.DataFrame, name: str) -> NDArray[np.int8]:
    values = numeric_column(frame, name)
    wrong = np.flatnonzero((values != 0) & (values != 1))
    if wrong.size:
        found = "a missing value" if np.isnan(values[wrong[0]]) else f"{values[wrong[0]]:g}"
        raise LogError(f"column {name!r}", expected="0 or 1", found=found, row=int(wrong[0]))
    return values.astype(np.int8)


def _checked_labels(value: ArrayLike, n: int) -> NDArray:
    labels = np.asarray(value)
    if labels.shape != (n,):
        raise LogError("cluster", expected=f"shape ({n},)", found=f"shape {labels.shape}")
    missing = np.flatnonzero(pd.isna(labels))
    if missing.size:
        raise LogError("cluster", expected="a label for each row", found="none", row=int(missing[0]))
    return labels


def _checked_propensity(value: ArrayLike, n: int) -> NDArray[np.float64]:
    propensity = np.asarray(value, dtype=np.float64)
    if propensity.shape != (n,):
        raise LogError("propensity", expected=f"shape ({n},)", found=f"shape {propensity.shape}")
    wrong = np.flatnonzero(~((propensity > 0) & (propensity < 1)))
    if wrong.size:
        raise LogError(
            "propensity",
            expected="values strictly between 0 and 1 (overlap)",
            found=str(propensity[wrong[0]]),
            row=int(wrong[0]),
        )
    return propensity


def _checked_size(name: str, size: int | None, ids: NDArray) -> int:
    least = int(ids.max()) + 1
    if size is None:
        return least
    if size < least:
        raise LogError(name, expected=f"at least {least}, for the ids of x", found=str(size))
    return int(size)
