r"""Features of user-item pairs: what a log says about the user and about the item of each pair.

Learners of features take user and item ids for quantities. Target encodings replace each id by rates of its
rows in the log (Micci-Barreca 2001). A row must not enter its own encoding. If it is only left out, the
encoding tells its outcome: :math:`S - y_i`, where S is the same for all rows of the user. A learner that
recognises the user reads the outcome from it, and predicts new rows badly. So the rows of a fit get encodings
from the other folds of K. There one outcome is hidden among those of its fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from cfmtl_lib.checks import check_count, check_number, check_seed, describe
from cfmtl_lib.errors import InputError
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.parquet_log import ParquetLog
from cfmtl_lib.logs.validation import check_pairs
from cfmtl_lib.runtime.registry import storable

RATES = (
    "treated",
    "converted_treated",
    "converted_untreated",
    "collected_treated",
    "collected_and_converted_treated",
)
"""Rates of an id: P(T=1), E[Y|T=1], E[Y|T=0], E[C|T=1], E[CY|T=1]."""

ENCODINGS = (*RATES, "count")
"""Numbers of an id, in this order: the log-odds of the smoothed :data:`RATES`, and log(1 + rows)."""

MOST_FOLDS = 100
"""Largest number of folds; the more there are, the nearer encodings are to leaving out one row."""

WEAKEST_CORRELATION = 1e-6
STRONGEST_CORRELATION = 0.5
"""Bounds of the correlation within an id; the prior count lies between 1 and a million rows."""


LEAST_PRIOR = 1e-6
"""Least prior count that may be given, and the inverse of the largest: with less, a rate of 1 is one in
double precision, and its log-odds are infinite."""


class _Sums(NamedTuple):
    """Sums over rows, in the last axis by rate: events, and the rows that could have had them."""

    events: NDArray[np.float64]
    trials: NDArray[np.float64]


@storable
class PairEncoder(BaseEstimator):
    r"""Encoder of pairs as twelve numbers: the :data:`ENCODINGS` of the user, then those of the item.

    A rate with e events among n rows becomes the log-odds of :math:`(e + m \mu) / (n + m)`. Here
    :math:`\mu` is the rate of the whole log and m the prior count. Both are the same for all rows, so they
    tell nothing of a single one. An id without rows gets the log-odds of :math:`\mu`.

    Parameters
    ----------
    folds : int
        Number K of folds, drawn over rows; clusters are not kept together, as each id needs rows elsewhere.
    prior : float, optional
        Prior count m, in rows, from 1e-6 to 1e6. If left out, each rate of users and of items has its own.
        It is :math:`1/\rho - 1` for the correlation :math:`\rho` of two rows of an id, by analysis of
        variance (Ridout, Demétrio and Firth 1999).
    seed : int
        Seed of the folds.

    Attributes
    ----------
    tables_ : tuple of ndarray of shape (size, 6), float64
        Encodings of every user, and of every item, from the whole log.
    prior_ : ndarray of shape (2, 5), float64
        Prior count of each rate of users and of items.

    Examples
    --------
    >>> x = [[0, 0], [0, 1], [1, 0], [1, 1]]
    >>> log = IncentiveLog(x, t=[1, 0, 1, 0], c=[1, 0, 0, 0], y=[1, 0, 0, 1], n_users=3)
    >>> encoder = PairEncoder(folds=2, prior=1.0)
    >>> encoder.fit_transform(log).shape
    (4, 12)
    >>> encoder.transform([[2, 0]])[0, :6].round(2).tolist()  # a user without rows
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """

    def __init__(self, *, folds: int = 5, prior: float | None = None, seed: int = 0) -> None:
        self.folds = folds
        self.prior = prior
        self.seed = seed

    def fit(self, log: IncentiveLog) -> Self:
        """Learn the encodings of new pairs from all rows of a log of pairs.

        Raises
        ------
        InputError
            If it is no log of pairs in memory, or a setting is out of range.
        """
        self.fit_transform(log)
        return self

    def fit_transform(self, log: IncentiveLog) -> NDArray[np.float64]:
        """Learn the encodings of new pairs, and encode each row of the log from the other folds.

        Parameters
        ----------
        log : IncentiveLog
            Log of n pairs.

        Returns
        -------
        ndarray of shape (n, 12), float64

        Raises
        ------
        InputError
            If it is no log of pairs in memory, or a setting is out of range.
        """
        if isinstance(log, ParquetLog):
            refuse_files(type(self).__name__)
        if not isinstance(log, IncentiveLog):
            raise InputError("log", expected="an IncentiveLog", found=describe(log))
        return self.fit_codes(log.x, log.pair_space, log)

    def transform(self, pairs: IncentiveLog | ArrayLike) -> NDArray[np.float64]:
        """Encode new pairs by the whole log.

        Parameters
        ----------
        pairs : array_like of shape (n, 2), integer
            User and item ids within the spaces of the log.

        Returns
        -------
        ndarray of shape (n, 12), float64

        Raises
        ------
        LogError
            If these are no pairs, or an id lies outside its space.
        """
        check_is_fitted(self, "tables_")
        x = pairs.x if isinstance(pairs, IncentiveLog) else pairs
        sizes = [len(table) for table in self.tables_]
        return self.transform_codes(check_pairs(x, *sizes))

    def fit_codes(self, codes: NDArray, sizes: Sequence[int], log: IncentiveLog) -> NDArray[np.float64]:
        """Encode columns of codes, each from 0 to its size less one, as :meth:`fit_transform` does.

        Parameters
        ----------
        codes : ndarray of shape (n, k), integer
        sizes : sequence of k int
        log : IncentiveLog
            Source of the outcomes.

        Returns
        -------
        ndarray of shape (n, 6 k), float64
        """
        folds = check_count(self.folds, "folds", least=2, most=MOST_FOLDS)
        if self.prior is not None:
            check_number(self.prior, "prior", low=LEAST_PRIOR, high=1 / LEAST_PRIOR)
        fold = np.random.default_rng(check_seed(self.seed)).permutation(len(log)) % folds
        encoded = np.empty((len(log), len(ENCODINGS) * len(sizes)))
        tables, priors = [], []
        for k, size in enumerate(sizes):
            code = codes[:, k].astype(np.int64)
            by_fold = _sums_by_code(code, size, fold, folds, log)
            whole = _Sums(by_fold.events.sum(axis=1), by_fold.trials.sum(axis=1))
            overall = (whole.events.sum(axis=0) + 0.5) / (whole.trials.sum(axis=0) + 1)
            prior = _prior_counts(whole) if self.prior is None else np.full(len(RATES), float(self.prior))
            others = _Sums(whole.events[:, None] - by_fold.events, whole.trials[:, None] - by_fold.trials)
            rows = np.log1p(whole.trials[:, 0])  # all rows of the id: their number tells no outcome
            table = np.column_stack([_log_odds(whole, overall, prior), rows])
            columns = slice(k * len(ENCODINGS), (k + 1) * len(ENCODINGS))
            encoded[:, columns][:, :-1] = _log_odds(others, overall, prior)[code, fold]
            encoded[:, columns][:, -1] = rows[code]
            tables.append(table)
            priors.append(prior)
        self.tables_, self.prior_ = tuple(tables), np.array(priors)
        return encoded

    def transform_codes(self, codes: NDArray) -> NDArray[np.float64]:
        """Encode columns of codes by the whole log; shape (n, 6 k)."""
        return np.concatenate(
            [table[codes[:, k].astype(np.int64)] for k, table in enumerate(self.tables_)], axis=1
        )

    def to_parts(self) -> dict[str, Any]:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        return {
            "parameters": self.get_params(deep=False),
            "tables": tuple(self.tables_),
            "prior": self.prior_,
        }

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any], device: Any) -> Self:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        encoder = cls(**parts["parameters"])
        for table in parts["tables"]:
            if table.ndim != 2 or table.shape[1] != len(ENCODINGS) or not np.isfinite(table).all():
                raise InputError(
                    "tables",
                    expected=f"finite numbers of shape (size, {len(ENCODINGS)})",
                    found=describe(table),
                )
        encoder.tables_, encoder.prior_ = tuple(parts["tables"]), parts["prior"]
        return encoder


def encoding_names(name: str) -> list[str]:
    """Return the names of the six numbers that replace one column of codes.

    Examples
    --------
    >>> encoding_names("user")[0]
    'user: treated'
    """
    return [f"{name}: {encoding}" for encoding in ENCODINGS]


def refuse_files(what: str) -> NoReturn:
    """Refuse a log in files, for a learner that needs all rows at once.

    Raises
    ------
    InputError
        Always.
    """
    raise InputError(
        "log",
        expected="a log in memory",
        found=f"a log in files, which {what} cannot read part by part",
        advice="Load it into an IncentiveLog, or a random part of it.",
    )


def _sums_by_code(code: NDArray[np.int64], size: int, fold: NDArray, folds: int, log: IncentiveLog) -> _Sums:
    """Sum events and trials of each rate by code and fold; shape (size, folds, 5) each."""
    place = code * folds + fold
    t, c, y = (values.astype(np.float64) for values in (log.t, log.c, log.y))

    def total(values: NDArray[np.float64] | None) -> NDArray[np.float64]:
        return np.bincount(place, values, minlength=size * folds).reshape(size, folds).astype(np.float64)

    n, treated, converted, converted_treated = total(None), total(t), total(y), total(t * y)
    events = (treated, converted_treated, converted - converted_treated, total(c), total(c * y))
    trials = (n, treated, n - treated, treated, treated)
    return _Sums(np.stack(events, axis=-1), np.stack(trials, axis=-1))


def _log_odds(sums: _Sums, overall: NDArray[np.float64], prior: NDArray[np.float64]) -> NDArray[np.float64]:
    return logit((sums.events + prior * overall) / (sums.trials + prior))


def _prior_counts(sums: _Sums) -> NDArray[np.float64]:
    """Estimate the prior count of each rate, from sums of shape (size, 5); see :class:`PairEncoder`."""
    counts = []
    for events, trials in zip(sums.events.T, sums.trials.T, strict=True):
        seen = trials > 0
        e, n = events[seen], trials[seen]
        total, groups = n.sum(), len(n)
        if groups < 2 or total <= groups:
            counts.append(1 / WEAKEST_CORRELATION - 1)  # nothing tells the ids apart
            continue
        between = (n * (e / n - e.sum() / total) ** 2).sum() / (groups - 1)
        within = (e * (1 - e / n)).sum() / (total - groups)
        size = (total - (n**2).sum() / total) / (groups - 1)
        spread = between + (size - 1) * within
        correlation = (between - within) / spread if spread > 0 else 0.0
        counts.append(1 / np.clip(correlation, WEAKEST_CORRELATION, STRONGEST_CORRELATION) - 1)
    return np.array(counts)
