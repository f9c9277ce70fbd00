"""Ratings of items by users as validated arrays, from a public data set or from any table."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cfmtl_lib.checks import check_number, check_seed
from cfmtl_lib.datasets.catalog import CATALOG, LARGEST_COUNT, content_fingerprint
from cfmtl_lib.datasets.files import find_file
from cfmtl_lib.datasets.tables import readers
from cfmtl_lib.datasets.tables.arguments import check_columns, check_text_options, table_path
from cfmtl_lib.datasets.tables.entries import check_ids, check_rating
from cfmtl_lib.errors import RatingsError, check_choice


class ThresholdWarning(UserWarning):
    """The threshold of the outcome may not fit the ratings."""


@dataclass(frozen=True, eq=False, repr=False)
class Ratings:
    """Observed (user, item) pairs and their ratings; every pair not listed counts as unobserved.

    The arrays are copied and made read-only, so that ``fingerprint`` stays true.

    Parameters
    ----------
    user, item : array_like of shape (n,), integer
        Ids 0 .. n_users - 1 and 0 .. n_items - 1; each pair at most once.
    rating : array_like of shape (n,), float
        Finite ratings.
    n_users, n_items : int
        Sizes of the two id ranges; ids without a rating are allowed.
    threshold : float
        Rating above which the outcome of a pair is 1.
    name : str
        Name of the data in tables and provenance.
    fingerprint : str, optional
        :func:`content_fingerprint` of the content; by default that of the arrays given here.
    user_ids, item_ids : array_like of shape (n_users,) and (n_items,), optional
        Original label of each id, where ids were re-indexed.

    Raises
    ------
    RatingsError
        If shapes or types are wrong, ids are out of range, ratings are not finite, or a pair is repeated.

    Examples
    --------
    >>> ratings = Ratings([0, 0, 1], [0, 2, 1], [5, 2, 4], n_users=2, n_items=3)
    >>> ratings
    Ratings('ratings': 3 ratings, 2 users x 3 items, 66.7 % above 3)
    >>> ratings.outcome.tolist(), ratings.pairs.tolist()
    ([1, 0, 1], [[0, 0], [0, 2], [1, 1]])
    """

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    rating: NDArray[np.float64]
    n_users: int
    n_items: int
    threshold: float = 3.0
    name: str = "ratings"
    fingerprint: str = ""
    user_ids: NDArray[Any] | None = None
    item_ids: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "n_users": _check_count("n_users", self.n_users),
            "n_items": _check_count("n_items", self.n_items),
            "threshold": _check_threshold(self.threshold),
        }
        checked["user"] = check_ids("user", self.user, checked["n_users"])
        checked["item"] = check_ids("item", self.item, checked["n_items"])
        checked["rating"] = check_rating(self.rating)
        lengths = {name: len(checked[name]) for name in ("user", "item", "rating")}
        if len(set(lengths.values())) > 1:
            raise RatingsError(
                "user, item, rating", expected="one length", found=", ".join(map(str, lengths.values()))
            )
        if not lengths["user"]:
            raise RatingsError("user, item, rating", expected="at least one rating", found="none")
        repeated = np.flatnonzero(_repeats(checked["user"], checked["item"], checked["n_items"], "first"))
        if repeated.size:
            row = int(repeated[0])
            raise RatingsError(
                "user, item",
                expected="each pair once",
                found=f"({checked['user'][row]}, {checked['item'][row]}) again, {repeated.size} in all",
                row=row,
                advice="Keep one rating of each pair; load_ratings has on_duplicates for this.",
            )
        for name, count in (("user_ids", checked["n_users"]), ("item_ids", checked["n_items"])):
            labels = getattr(self, name)
            if labels is not None:
                checked[name] = np.array(labels)
                if checked[name].shape != (count,):
                    raise RatingsError(
                        name, expected=f"shape ({count},)", found=f"shape {checked[name].shape}"
                    )
        checked["fingerprint"] = self.fingerprint or content_fingerprint(
            checked["user"], checked["item"], checked["rating"]
        )
        for name, value in checked.items():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.rating)

    def __repr__(self) -> str:
        return (
            f"Ratings({self.name!r}: {len(self):,} ratings, {self.n_users:,} users x {self.n_items:,} items, "
            f"{self.outcome.mean():.1%} above {self.threshold:g})".replace("%", " %")
        )

    @property
    def outcome(self) -> NDArray[np.int8]:
        """Outcome of each rating: 1 if it is greater than the threshold, else 0; shape (n,), int8."""
        return (self.rating > self.threshold).astype(np.int8)

    @property
    def outcome_rule(self) -> str:
        """Description of the outcome: its threshold, and the share of ratings above it.

        Examples
        --------
        >>> Ratings([0, 0, 1], [0, 2, 1], [5, 2, 4], n_users=2, n_items=3).outcome_rule
        'ratings: the outcome is 1 where the rating is above 3, 66.7 % of 3 ratings'
        """
        return (
            f"{self.name}: the outcome is 1 where the rating is above {self.threshold:g}, "
            f"{100 * self.outcome.mean():.3g} % of {len(self):,} ratings"
        )

    @property
    def pairs(self) -> NDArray[np.int64]:
        """Pair (user, item) of each rating; shape (n, 2), int64, a new array."""
        return np.stack([self.user, self.item], axis=1)


def load_ratings(
    name_or_path: str | os.PathLike[str] | pd.DataFrame | Any,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    threshold: float | None = None,
    seed: int = 0,
    columns: Sequence[str | int] | None = None,
    encoding: str | None = None,
    separator: str | None = None,
    decimal: str = ".",
    download: bool = True,
    on_duplicates: str = "last",
) -> Ratings:
    r"""Load a public data set by name, or any table of ratings: a file or a dataframe.

    Parameters
    ----------
    name_or_path : str, path or dataframe
        ``"ml-1m"``, ``"yelp"``, ``"kuairec"``, ``"yelp-dfm"``, or the path of a table: CSV, TSV,
        ``::``-separated or Parquet, plain or packed (gzip, bzip2, xz, zip), with or without a header. Columns
        with a name are found by it, whatever their order: user, item and rating, or usual other names such as
        ``userId``, ``ISBN``, ``stars``. A table without a header has user, item and rating first. A dataframe
        is one of pandas, polars or pyarrow. Ids may be whole numbers or texts; they are re-indexed densely in
        sorted order. A table is not checked against the catalog.
    data_dir : path, optional
        Official file of a named data set, or the folder that holds it. The folder may also hold the archive,
        opened or not. If left out, the file comes from the user's cache, and is downloaded into it if need
        be. With a path of a table: the folder where a relative path starts.
    threshold : float, optional
        Rating above which the outcome of a pair is 1, in the units of the rating. The default is that of the
        data set: 3 for stars, 0.6 for the watch ratio of kuairec. For a table it is 3, which fits stars from
        1 to 5. Any other scale needs its own threshold, and a warning says so.
    seed : int
        Seed of the draw of the 20 % of KuaiRec that count as observed; no effect on other data.
    columns : sequence of 3 str or int, optional
        Names, or positions from 0, of the columns with user, item and rating of a table.
    encoding : str, optional
        Encoding of a text file, such as ``"gb18030"`` or ``"cp1252"``. By default that of the mark at its
        start (UTF-8, UTF-16, UTF-32), else UTF-8.
    separator : str, optional
        Separator of the fields of a text file; found out by default.
    decimal : {".", ","}
        Sign of a decimal in the ratings of a text file.
    download : bool
        Whether a named data set may be downloaded.
    on_duplicates : {"last", "first", "error"}
        Rating of a repeated (user, item) pair to keep, in the order of the file. A warning gives the number
        of dropped rows.

    Returns
    -------
    Ratings

    Warns
    -----
    UserWarning
        If pairs are repeated.
    ThresholdWarning
        If fewer than 1 % or more than 99 % of the ratings are above the threshold. Also if the threshold of a
        table is left out, and a rating lies outside 0 to 5.

    Raises
    ------
    RatingsError
        If the file is missing, damaged, malformed, or not the one that the name stands for. Also if columns
        cannot be told by their names, or ids are such that digits may have been lost.
    UnknownNameError
        If the name is neither a data set nor a path.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "mine.csv")
    ...     _ = path.write_text("Stars,userId,item\n5,ann,tea\n2,bob,tea\n4,ann,pie\n")
    ...     ratings = load_ratings(path)
    >>> ratings
    Ratings('mine': 3 ratings, 2 users x 2 items, 66.7 % above 3)
    >>> ratings.item_ids[ratings.item].tolist()
    ['tea', 'tea', 'pie']
    """
    check_choice("on_duplicates", on_duplicates, ("last", "first", "error"))
    check_text_options(separator, decimal)
    seed = check_seed(seed)
    if threshold is not None:
        threshold = check_number(threshold, "threshold")
    fingerprint = ""
    if isinstance(name_or_path, str) and name_or_path in CATALOG:
        entry = CATALOG[name_or_path]
        for option, value in (("columns", columns), ("encoding", encoding), ("separator", separator)):
            if value is not None:
                raise RatingsError(
                    option, expected=f"None for {entry.name!r}, whose format is known", found=repr(value)
                )
        label, share, default = entry.name, entry.observed_share, entry.threshold
        user, item, rating = readers.read_official(find_file(entry, data_dir, download), entry)
        if entry.first_id is not None:
            user, item = user - entry.first_id, item - entry.first_id
            n_users, n_items = entry.n_users, entry.n_items
            user_ids, item_ids = (_shifted_labels(n, entry.first_id) for n in (n_users, n_items))
        else:
            user, user_ids, n_users = _reindex(pd.Series(user))
            item, item_ids, n_items = _reindex(pd.Series(item))
    else:
        share, default, entry = 1.0, 3.0, None
        wanted = check_columns(columns)
        if isinstance(name_or_path, str | os.PathLike):
            path = table_path(name_or_path, data_dir)
            label = path.name.removesuffix("".join(path.suffixes[-2:])) if _packed(path) else path.stem
            frame = readers.read_table(path, wanted, encoding=encoding, separator=separator, decimal=decimal)
        else:
            label = "ratings"
            frame = readers.table_of(name_or_path, wanted, label)
        rating = frame["rating"].to_numpy()
        user, user_ids, n_users = _reindex(frame["user"])
        item, item_ids, n_items = _reindex(frame["item"])

    kept = _kept_rows(user, item, n_items, on_duplicates, label)
    if share < 1:
        drawn = np.random.default_rng(seed).choice(
            len(kept), size=math.floor(share * len(kept)), replace=False
        )
        kept = kept[np.sort(drawn)]
    user, item, rating = user[kept], item[kept], rating[kept]
    if entry is not None and entry.first_id:
        # The published fingerprint of MovieLens is that of its own ids, from 1.
        fingerprint = content_fingerprint(user + entry.first_id, item + entry.first_id, rating)
    ratings = Ratings(
        user=user,
        item=item,
        rating=rating,
        n_users=n_users,
        n_items=n_items,
        threshold=default if threshold is None else threshold,
        name=label,
        fingerprint=fingerprint,
        user_ids=user_ids,
        item_ids=item_ids,
    )
    doubt = threshold_doubt(ratings, is_default=threshold is None and entry is None)
    if doubt:
        warnings.warn(doubt, ThresholdWarning, stacklevel=2)
    return ratings


def threshold_doubt(ratings: Ratings, *, is_default: bool) -> str:
    """Say why the threshold may not fit the ratings; an empty text if nothing speaks against it.

    Parameters
    ----------
    ratings : Ratings
    is_default : bool
        Whether the threshold is the default of tables, which fits stars from 1 to 5.

    Examples
    --------
    >>> watched = Ratings([0, 0, 1], [0, 1, 1], [0.2, 1.4, 0.9], n_users=2, n_items=2)
    >>> threshold_doubt(watched, is_default=True)
    'ratings: 0 % of 3 ratings are above the threshold 3; they go from 0.2 to 1.4. Pass another.'
    """
    share, low, high = ratings.outcome.mean(), ratings.rating.min(), ratings.rating.max()
    if 0.01 <= share <= 0.99 and not (is_default and (low < 0 or high > 5)):
        return ""
    return (
        f"{ratings.name}: {100 * share:.3g} % of {len(ratings):,} ratings are above the threshold "
        f"{ratings.threshold:g}; they go from {low:g} to {high:g}. Pass another."
    )


def _shifted_labels(count: int, first_id: int) -> NDArray[np.int64] | None:
    return np.arange(first_id, first_id + count) if first_id else None


def _packed(path: Path) -> bool:
    return path.suffix.lower() in (".gz", ".bz2", ".xz", ".zip") and len(path.suffixes) > 1


def _reindex(series: pd.Series) -> tuple[NDArray[np.int64], NDArray[Any] | None, int]:
    """Return dense ids in sorted order of the labels, the labels (None if unchanged), and their number."""
    codes, uniques = pd.factorize(series, sort=True)
    labels = np.asarray(uniques)
    if labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels):
        labels = labels.astype(str)
    same = labels.dtype.kind in "iu" and bool(np.array_equal(labels, np.arange(len(labels))))
    return codes.astype(np.int64), None if same else labels, len(labels)


def _repeats(user: NDArray[np.int64], item: NDArray[np.int64], n_items: int, keep: str) -> NDArray[np.bool_]:
    """Mark each row whose pair occurs in another row too, but for the row to keep."""
    return pd.Series(user * n_items + item).duplicated(keep=keep).to_numpy()  # type: ignore[arg-type]


def _kept_rows(
    user: NDArray[np.int64], item: NDArray[np.int64], n_items: int, on_duplicates: str, label: str
) -> NDArray[np.int64]:
    """Find positions of the rows that stay, in the order of the file; warn if any is dropped."""
    dropped = _repeats(user, item, n_items, "last" if on_duplicates == "last" else "first")
    count = int(dropped.sum())
    if count and on_duplicates == "error":
        raise RatingsError(
            label,
            expected="each (user, item) pair once",
            found=f"{count:,} repeats",
            row=int(np.flatnonzero(dropped)[0]),
            advice="Pass on_duplicates='last' or 'first' to keep one rating of each pair.",
        )
    if count:
        warnings.warn(
            f"{label}: {count:,} of {len(dropped):,} rows repeat a (user, item) pair; kept the "
            f"{on_duplicates} rating of each, {len(dropped) - count:,} rows. Pass on_duplicates='first', "
            "'last' or 'error' to choose.",
            UserWarning,
            stacklevel=3,
        )
    return np.flatnonzero(~dropped)


def _check_count(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 < value <= LARGEST_COUNT:
        raise RatingsError(name, expected=f"an integer from 1 to {LARGEST_COUNT}", found=repr(value))
    return int(value)


def _check_threshold(value: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RatingsError("threshold", expected="a finite number", found=repr(value))
    return number
