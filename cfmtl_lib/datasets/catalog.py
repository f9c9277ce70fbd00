"""Catalog of the public data sets, those of the paper (Table 3) and further ones: sources, terms and checks.

The files are not part of this project; :mod:`~cfmtl_lib.datasets.files` finds them.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

LARGEST_COUNT = 2**31 - 1
"""Largest number of users or of items: ids must fit the int32 of the fingerprint."""


@dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    r"""Public data set: its source, its licence and the numbers by which its file is recognised.

    Parameters
    ----------
    name, title : str
        Key in :data:`CATALOG`, and a name for people.
    url : str or None
        Address of the official download; its last part is the name of the downloaded file. None: the files
        have to be fetched from ``homepage`` by hand.
    homepage : str
        Page that describes the data and its terms.
    table : str
        Name of the ratings file itself; within an archive it is found by this name, in any folder. A name
        that ends in ``.mat`` is that of a sparse MATLAB matrix, users in rows and items in columns.
    more_tables : tuple of str
        Names of further files beside ``table`` with other ratings of the same users and items.
    places : tuple of str
        Paths below a data folder at which the file is looked for, first hit wins.
    licence, citation, doi : str
        Terms of use in short, and the work to cite.
    sha256 : str or None
        Digest of the file at ``url``, or None where it is not known.
    git_blob : str or None
        Git object id of the table: SHA-1 of ``b"blob <size>\0"`` followed by its bytes.
    n_users, n_items, n_rows : int
        Counts of the file's ids and rows, before repeated pairs are dropped; those of Table 3 for the data
        sets of the paper.
    in_paper : bool
        Whether the paper reports results on these ratings.
    n_positive : int or None
        Rows whose rating exceeds ``threshold``, where known.
    threshold : float
        Rating above which the outcome of a pair is 1.
    rating_range : tuple of float
        Least and greatest rating the file may hold.
    fingerprint : str or None
        :func:`content_fingerprint` of the whole file with its original ids, so that another packaging of the
        same ratings passes.
    separator : str
        Separator of the fields of a line.
    columns : tuple of str or None
        Header names of user, item and rating. None: there is no header, they are the first three.
    n_fields : int or None
        Number of fields per line; None: as many as the header has.
    first_id : int or None
        Smallest id of the numbering. None: ids have gaps and are re-indexed densely in sorted order.
    observed_share : float
        Share of the rows that count as observed, drawn at random (1: all of them).
    notes : str
        Remarks for users, including what could not be verified.

    Examples
    --------
    >>> CATALOG["ml-1m"].download_name, CATALOG["ml-1m"].n_rows
    ('ml-1m.zip', 1000209)
    """

    name: str
    title: str
    url: str | None
    homepage: str
    table: str
    places: tuple[str, ...]
    licence: str
    citation: str
    doi: str
    sha256: str | None
    git_blob: str | None
    n_users: int
    n_items: int
    n_rows: int
    n_positive: int | None
    threshold: float
    rating_range: tuple[float, float]
    fingerprint: str | None
    separator: str
    columns: tuple[str, str, str] | None
    n_fields: int | None
    first_id: int | None
    observed_share: float = 1.0
    more_tables: tuple[str, ...] = ()
    in_paper: bool = True
    notes: str = ""

    @property
    def download_name(self) -> str:
        """Name of the official download in the cache; that of the table if there is no download."""
        return self.table if self.url is None else self.url.rsplit("/", 1)[-1]

    @property
    def source(self) -> str:
        """Place that has the files, in the words of a message."""
        return self.homepage if self.url is None else f"{self.url}, see {self.homepage}"


CATALOG: dict[str, DatasetEntry] = {
    entry.name: entry
    for entry in (
        DatasetEntry(
            name="ml-1m",
            title="MovieLens 1M",
            url="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
            homepage="https://grouplens.org/datasets/movielens/1m/",
            table="ratings.dat",
            places=("ratings.dat", "ml-1m/ratings.dat", "ml-1m.zip"),
            licence="GroupLens terms: research use, no redistribution without permission.",
            citation=(
                "F. M. Harper and J. A. Konstan (2015). The MovieLens Datasets: History and Context. "
                "ACM Transactions on Interactive Intelligent Systems 5(4):19."
            ),
            doi="10.1145/2827872",
            sha256="a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
            git_blob=None,
            n_users=6_040,
            n_items=3_952,
            n_rows=1_000_209,
            n_positive=575_281,
            threshold=3.0,
            rating_range=(1.0, 5.0),
            fingerprint="4006295d92ab367f0bc4893d8764771af8ee6d207f5905de2a7c1e10a9ec2ad2",
            separator="::",
            columns=None,
            n_fields=4,
            first_id=1,
            notes=(
                "n_items is the largest movie id; 3,706 of them have a rating. The ids without one "
                "still enter the pool of unobserved pairs, as in the paper."
            ),
        ),
        DatasetEntry(
            name="yelp",
            title="Yelp (as filtered for the eALS paper)",
            url="https://raw.githubusercontent.com/hexiangnan/sigir16-eals/master/data/yelp.rating",
            homepage="https://github.com/hexiangnan/sigir16-eals",
            table="yelp.rating",
            places=("yelp.rating", "yelp/yelp.rating", "data/yelp.rating"),
            licence="None stated beside the file; made from the Yelp Dataset Challenge, whose terms apply.",
            citation=(
                "X. He, H. Zhang, M.-Y. Kan and T.-S. Chua (2016). Fast Matrix Factorization for Online "
                "Recommendation with Implicit Feedback. SIGIR '16."
            ),
            doi="10.1145/2911451.2911489",
            sha256=None,
            git_blob="60b4b3fe23bac9fdbf0ca5252a193033f93cf7d6",
            n_users=25_677,
            n_items=25_815,
            n_rows=731_671,
            n_positive=None,
            threshold=3.0,
            rating_range=(1.0, 5.0),
            fingerprint=None,
            separator="\t",
            columns=None,
            n_fields=4,
            first_id=0,
            notes=(
                "The SHA-256 is not known: the file could not be reached when this was written; its git "
                "object id is checked instead. Repeated (user, item) pairs are expected: the row sums of "
                "the paper's Table 4 imply about 731,357 distinct pairs of the 731,671 rows."
            ),
        ),
        DatasetEntry(
            name="kuairec",
            title="KuaiRec, small matrix",
            url="https://zenodo.org/records/18164998/files/KuaiRec.zip",
            homepage="https://kuairec.com",
            table="small_matrix.csv",
            places=(
                "small_matrix.csv",
                "data/small_matrix.csv",
                "KuaiRec/data/small_matrix.csv",
                "KuaiRec 2.0/data/small_matrix.csv",
                "KuaiRec.zip",
            ),
            licence="CC BY-SA 4.0",
            citation=(
                "C. Gao, S. Li, W. Lei, J. Chen, B. Li, P. Jiang, X. He, J. Mao and T.-S. Chua (2022). "
                "KuaiRec: A Fully-observed Dataset and Insights for Evaluating Recommender Systems. CIKM '22."
            ),
            doi="10.1145/3511808.3557220",
            sha256=None,
            git_blob=None,
            n_users=1_411,
            n_items=3_327,
            n_rows=4_676_570,
            n_positive=None,
            threshold=0.6,
            rating_range=(0.0, math.inf),
            fingerprint=None,
            separator=",",
            columns=("user_id", "video_id", "watch_ratio"),
            n_fields=None,
            first_id=None,
            observed_share=0.2,
            notes=(
                "The rating is watch_ratio (time watched / length of the video, may exceed 1). The "
                "address of the download was not verified and the SHA-256 is not known: rows, users "
                "and items are checked. Which 20 % of the rows the paper drew is not published."
            ),
        ),
        DatasetEntry(
            name="yelp-dfm",
            title="Yelp (as filtered for the DFM paper)",
            url=None,
            homepage="https://github.com/hanliu95/DFM/tree/master/data",
            table="train_yelp.mat",
            more_tables=("test_yelp.mat",),
            places=("train_yelp.mat", "yelp-dfm/train_yelp.mat", "data/train_yelp.mat"),
            licence="None stated beside the files; made from the Yelp Dataset Challenge, whose terms apply.",
            citation=(
                "H. Liu, X. He, F. Feng, L. Nie, R. Liu and H. Zhang (2018). Discrete Factorization Machines "
                "for Fast Feature-based Recommendation. IJCAI '18."
            ),
            doi="10.24963/ijcai.2018/479",
            sha256=None,
            git_blob=None,
            n_users=13_679,
            n_items=12_922,
            n_rows=640_143,
            n_positive=433_511,
            threshold=3.0,
            rating_range=(1.0, 5.0),
            fingerprint="c9100c78745756015d18039fd644b9869af4f4f6db7b724a0059c48cce90d304",
            separator="",
            columns=None,
            n_fields=None,
            first_id=0,
            in_paper=False,
            notes=(
                "Not the Yelp of the paper: another filter of the same source, so that no printed number "
                "belongs to it. The ratings are the union of the training and the test matrix of its "
                "authors, which share no pair. Both files are fetched from the repository by hand."
            ),
        ),
    )
}
"""Data sets that :func:`~cfmtl_lib.datasets.ratings.load_ratings` loads by name."""


def content_fingerprint(user: ArrayLike, item: ArrayLike, rating: ArrayLike) -> str:
    """Compute the SHA-256 of the ratings themselves, whatever the file format and the order of its rows.

    Rows are sorted by (user, item). If all ratings are whole numbers, the digest is that of the
    triples (user, item, rating) as little-endian int32, row by row. Otherwise it is that of the
    pairs (user, item) as little-endian int32, row by row, followed by all ratings as
    little-endian float64.

    Parameters
    ----------
    user, item : array_like of shape (n,), integer
    rating : array_like of shape (n,), float

    Returns
    -------
    str
        64 hexadecimal digits.

    Examples
    --------
    >>> content_fingerprint([0, 1], [5, 2], [3, 4]) == content_fingerprint([1, 0], [2, 5], [4, 3])
    True
    """
    u, i = np.asarray(user), np.asarray(item)
    r = np.asarray(rating, dtype=np.float64) + 0.0  # -0.0 and 0.0 are one rating
    order = np.lexsort((i, u))
    columns = [u[order], i[order]]
    whole = bool(np.all((r == np.rint(r)) & (np.abs(r) <= LARGEST_COUNT)))
    if whole:
        columns.append(r[order])
    digest = hashlib.sha256(np.stack(columns, axis=1).astype("<i4").tobytes())
    if not whole:
        digest.update(r[order].astype("<f8").tobytes())
    return digest.hexdigest()
