"""Incentive log: treatment, collection and conversion of each unit."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import InitVar, dataclass, field, replace
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cfmtl_lib import checks
from cfmtl_lib.errors import LogError, check_choice
from cfmtl_lib.logs.alignment import aligned_values, common_index, index_of, plain_values
from cfmtl_lib.logs.columns import column_of, numeric_column
from cfmtl_lib.logs.encoding import FeatureRows, FrameEncoder, check_encoder, names_of
from cfmtl_lib.logs.outcomes import (
    MISSING_COLLECTED,
    binary_column,
    checked_binary,
    collected_values,
    outcome_columns,
    refuse_collected_untreated,
    refuse_double_roles,
    refuse_shared_columns,
)
from cfmtl_lib.logs.tables import as_table
from cfmtl_lib.logs.validation import (
    checked_amounts,
    checked_index,
    checked_labels,
    checked_propensity,
    checked_rows,
    checked_size,
    draw_groups,
    features_of_fit,
    locked,
    log_features,
)
from cfmtl_lib.strata import observed_cell


@dataclass(frozen=True, eq=False)
class IncentiveLog:
    """Validated log of n units. The constructor checks it.

    Parameters
    ----------
    x : array_like of shape (n, 2), integer, or (n, p), float; or a tuple of both; or DataFrame
        User and item index of each row (from 0), or features, or pairs with features. All columns of a table
        are features, whole numbers too; texts are categories.
    t, c, y : array_like of shape (n,), 0/1
        Incentive given, incentive collected, converted.
    propensity : float in (0, 1), or array_like of shape (n,), optional
        Known propensity P(T=1 | x), where the assignment was designed; one number if it was the same for all.
    n_users, n_items : int, optional
        Size of the id spaces, if later predictions need ids beyond those of the log.
        The largest id plus one if left out. Only for pairs.
    cluster : array_like of shape (n,), optional
        Labels of rows that were assigned together or behave alike, e.g. the user of each. Standard errors
        and folds of cross-fitting respect them.
    encoder : FrameEncoder, optional
        Encoder of a table's columns as the features (see :meth:`from_frame`). With it, missing numbers
        (NaN) are allowed.
    index : pandas.Index, optional
        Labels of the rows. Those of the pandas objects that the log is made of if left out, or None if
        there are none. Later arguments with labels (a Series) are matched with them.
    outcome : array_like of shape (n,), float, optional
        Amount of each row in money, such as the margin before the incentive is paid. It is 0 where nothing
        was bought, and may be negative. Values and costs are in its units. ``y`` still says who converted.
    outcome_note : str
        What was done to the amounts, printed beside values; ``cfmtl_lib.winsorise`` writes it.
    pairs : bool, optional
        Whether x holds user and item ids. If left out, an array of integers of shape (n, 2) does, and a table
        does not. With True, a table has to have the columns "user" and "item".
    missing_collected : {"error", "untreated"}
        Whether a missing c is refused, or read as 0 where t is 0.

    Notes
    -----
    The log holds copies of all arrays, which cannot be changed.

    Raises
    ------
    LogError
        If a shape is wrong, a value is not 0/1 or is NaN, or an incentive was collected but not given.
        Also if a propensity lies outside (0, 1), an id outside its space, or an arm has no rows.

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
    index: pd.Index | None = None
    outcome: NDArray[np.float64] | None = None
    outcome_note: str = ""
    is_pairs: bool = field(init=False)
    pairs: InitVar[bool | None] = None
    missing_collected: InitVar[str] = "error"

    def __post_init__(self, pairs: bool | None, missing_collected: str) -> None:
        put = object.__setattr__  # frozen: the checked arrays replace what was passed
        if self.index is None:
            labelled = ("x", "t", "c", "y") if self.outcome is None else ("x", "t", "c", "y", "outcome")
            put(self, "index", common_index({name: getattr(self, name) for name in labelled}))
        refuse_double_roles(self.x, {name: getattr(self, name) for name in ("t", "c", "y")})
        given_sizes = (self.n_users, self.n_items)
        x, encoder, is_pairs = log_features(self.x, self.encoder, pairs, *given_sizes)
        n = len(x)
        if self.index is not None:
            put(self, "index", checked_index(self.index, n))
        t = checked_binary("t", self.t, n, self.index)
        check_choice("missing_collected", missing_collected, MISSING_COLLECTED)
        collected = aligned_values("c", self.c, self.index, n, error=LogError)
        c = collected_values("c", collected, t, missing_collected)
        refuse_collected_untreated(t, c)
        for arm in (0, 1):
            if not (t == arm).any():
                raise LogError(
                    "t",
                    expected="rows in both arms",
                    found=f"no row with t = {arm} among {n}",
                    advice="Effects need treated and untreated rows.",
                )
        columns = {"x": x, "t": t, "c": c, "y": checked_binary("y", self.y, n, self.index)}
        if self.propensity is not None:
            columns["propensity"] = checked_propensity(self.propensity, n, self.index)
        if self.cluster is not None:
            columns["cluster"] = checked_labels(self.cluster, n, self.index)
        if self.outcome is not None:
            columns["outcome"] = checked_amounts(self.outcome, n, self.index)
        for name, values in columns.items():
            put(self, name, locked(values))
        put(self, "encoder", encoder)
        put(self, "is_pairs", is_pairs)
        for name, size, ids in zip(("n_users", "n_items"), given_sizes, (x[:, 0], x[:, -1]), strict=True):
            put(self, name, checked_size(name, size, ids) if is_pairs else None)

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        *,
        treatment: str,
        collected: str,
        converted: str,
        features: Sequence[str],
        categories: Collection[str] = (),
        propensity: str | float | ArrayLike | None = None,
        cluster: str | ArrayLike | None = None,
        encoder: FrameEncoder | None = None,
        missing_collected: str = "error",
        outcome: str | ArrayLike | None = None,
    ) -> Self:
        """Make a log from a table of campaign rows, and keep the encoder of its features.

        Parameters
        ----------
        frame : DataFrame
            Table with a row for each unit: of pandas, polars, pyarrow, or what narwhals knows else.
        treatment, collected, converted : str
            Names of columns of 0/1 (or booleans), without missing values.
        features : sequence of str
            Names of columns known *before* the assignment: numbers, booleans, or texts (categories). Missing
            values are allowed and stay missing.
        categories : collection of str
            Names of features that are categories though they hold whole numbers, or texts that look like
            numbers: ids, codes of shops.
        propensity : str, float, or array_like of shape (n,), optional
            Column, or values, of the known propensity P(T=1 | x); one number if it was the same for all rows.
        cluster : str or array_like of shape (n,), optional
            Column, or labels, of the rows that were assigned together.
        encoder : FrameEncoder, optional
            Encoder of an earlier log, so that a model that was fitted to it accepts this one. Learnt from the
            table if left out.
        missing_collected : {"error", "untreated"}
            Whether a missing value of ``collected`` is refused, or read as 0 in untreated rows.
        outcome : str or array_like of shape (n,), optional
            Column, or amounts, of the outcome in money.

        Returns
        -------
        IncentiveLog
            Log with float features and their ``encoder``.

        Raises
        ------
        LogError
            If a column cannot be used; it names the column, what was expected and found, and the first row.

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
        index, frame = index_of(frame), as_table(frame)
        features = names_of("features", features)
        roles = {"treatment": treatment, "collected": collected, "converted": converted}
        for name in roles.values():
            column_of(frame, name)  # refuses what is no name
        given = roles | {
            role: name
            for role, name in (("propensity", propensity), ("cluster", cluster), ("outcome", outcome))
            if isinstance(name, str)
        }
        refuse_shared_columns(roles, given, features)
        t = binary_column(frame, treatment)
        check_choice("missing_collected", missing_collected, MISSING_COLLECTED)
        c = collected_values(
            f"column {collected!r}", plain_values(column_of(frame, collected)), t, missing_collected
        )
        refuse_collected_untreated(t, c, f"column {collected!r}", repr(treatment))
        if isinstance(propensity, str):
            propensity = numeric_column(frame, propensity)
        if isinstance(cluster, str):
            cluster = plain_values(column_of(frame, cluster))
        if isinstance(outcome, str):
            outcome = numeric_column(frame, outcome)
        check_encoder(encoder)
        learnt = FrameEncoder.learn(frame, features, categories) if encoder is None else encoder
        if learnt.names != tuple(features):
            raise LogError(
                "encoder", expected=f"the features {features}", found=f"those of {list(learnt.names)}"
            )
        return cls(
            x=learnt.encode(frame),
            t=t,
            c=c,
            y=binary_column(frame, converted),
            propensity=propensity,  # type: ignore[arg-type]  # the constructor checks
            cluster=cluster,  # type: ignore[arg-type]
            encoder=learnt,
            index=index,
            outcome=outcome,  # type: ignore[arg-type]
        )

    @classmethod
    def from_xy(
        cls,
        x: IncentiveLog | FeatureRows,
        y: ArrayLike | pd.DataFrame | None = None,
        *,
        pairs: bool | None = None,
    ) -> IncentiveLog:
        """Return a log, or make one of features and outcomes as scikit-learn passes them to ``fit(X, y)``.

        Parameters
        ----------
        x : IncentiveLog, or array_like, DataFrame, (pairs, features)
            Log, or features. All columns of a DataFrame are features; texts are categories.
        y : array_like of shape (n, 3), 0/1, optional
            Columns: incentive given, collected, converted. Only with features.
        pairs : bool, optional
            Whether an array of integers in two columns holds user and item ids. It has to be given for one.

        Raises
        ------
        LogError
            If y does not fit x, or the constructor raises it.
        """
        if isinstance(x, IncentiveLog):
            if y is not None:
                raise LogError("y", expected="none, as the log holds the outcomes", found="another y")
            return x
        index = index_of(x) if index_of(x) is not None else index_of(y)
        outcomes = outcome_columns(y, index)
        refuse_double_roles(x, y)
        features, encoder, pairs = features_of_fit(x, pairs)
        return cls(features, *outcomes, encoder=encoder, index=index, pairs=pairs)

    of = from_xy  # its name in 0.1

    def take(self, rows: ArrayLike) -> Self:
        """Select rows of the log, by a mask or by positions; a Series is a mask with the log's labels.

        Raises
        ------
        LogError
            If an arm is left without rows.
        """
        chosen = checked_rows(rows, len(self), self.index)
        return replace(
            self,
            x=self.x[chosen],
            t=self.t[chosen],
            c=self.c[chosen],
            y=self.y[chosen],
            propensity=None if self.propensity is None else self.propensity[chosen],
            cluster=None if self.cluster is None else self.cluster[chosen],
            index=None if self.index is None else self.index[chosen],
            outcome=None if self.outcome is None else self.outcome[chosen],
        )

    def split(self, share: float = 0.5, *, seed: int = 0) -> tuple[Self, Self]:
        """Split the log into two parts at random; rows of one cluster stay together.

        Parameters
        ----------
        share : float
            Share of the rows (or clusters, if there are any) in the first part, in (0, 1).
        seed : int

        Raises
        ------
        InputError
            If the share lies outside (0, 1).
        LogError
            If a part has no row of an arm.

        Examples
        --------
        >>> log = IncentiveLog([[0.0], [1.0], [2.0], [3.0]], t=[1, 0, 1, 0], c=[0] * 4, y=[1, 0, 0, 1])
        >>> log.split(0.5, seed=2)[1]
        IncentiveLog(2 rows of 1 features: 1 treated, 0 collected, 1 converted)
        """
        is_first = self.split_mask(share, seed=seed)
        return self.take(is_first), self.take(~is_first)

    def split_mask(self, share: float = 0.5, *, seed: int = 0) -> NDArray[np.bool_]:
        """Mark the rows in the first part of :meth:`split`, for columns outside the log; shape (n,)."""
        share = checks.check_number(share, "share", low=0, high=1, low_open=True, high_open=True)
        rng = np.random.default_rng(checks.check_seed(seed))
        return draw_groups(self.groups, lambda n_groups: round(share * n_groups), rng)

    @property
    def groups(self) -> NDArray:
        """Label of the group in which each row was assigned: its cluster, or the row itself; shape (n,)."""
        return np.arange(len(self)) if self.cluster is None else self.cluster

    def __len__(self) -> int:
        return len(self.t)

    def __repr__(self) -> str:
        what = (
            f"pairs of {self.n_users:,} users and {self.n_items:,} items"
            if self.is_pairs
            else f"rows of {self.x.shape[1]} features"
        )
        money = "" if self.outcome is None else f", outcome {self.outcome.sum():,.2f}"
        return (
            f"IncentiveLog({len(self):,} {what}: {int(self.t.sum()):,} treated, "
            f"{int(self.c.sum()):,} collected, {int(self.y.sum()):,} converted{money})"
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
        """Return the labels given, or the log's own; None if there are neither and rows are independent.

        Raises
        ------
        LogError
            If there is not one label for each row, or the labels of a Series are not those of the log.
        """
        return self.cluster if given is None else checked_labels(given, len(self), self.index, "clusters")

    @property
    def cell(self) -> NDArray[np.int8]:
        """Observed cell of each row, an index into :data:`~cfmtl_lib.strata.CELLS`; shape (n,)."""
        return observed_cell(self.t, self.c, self.y)
