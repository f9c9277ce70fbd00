"""Reader of ratings in sparse MATLAB matrices: users in rows, items in columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.io import loadmat, whosmat
from scipy.sparse import coo_array, issparse

from cfmtl_lib.datasets.tables.columns import ROLES
from cfmtl_lib.errors import RatingsError


def read_matrices(paths: Sequence[str | Path]) -> pd.DataFrame:
    """Read the ratings of one or more files with one sparse matrix each, over the same users and items.

    Parameters
    ----------
    paths : sequence of str or Path
        MATLAB files of version 4 to 7, e.g. a training and a test part.

    Returns
    -------
    DataFrame with columns user, item, rating
        One row per stored entry, file by file and column by column. Ids are positions from 0, int64; ratings
        are float64. A stored zero is an entry.

    Raises
    ------
    RatingsError
        If a file is missing, is no such MATLAB file, or holds no or several variables, or one that is not
        sparse and real. Also if the shapes of files differ, or a pair occurs twice, in one file or in two.
    """
    files = [Path(path) for path in paths]
    if not files:
        raise RatingsError("paths", expected="at least one file", found="none")
    parts = [_entries(path) for path in files]
    shapes = {part.shape for part in parts}
    if len(shapes) > 1:
        raise RatingsError(
            _joined(files),
            expected="matrices of one shape, (users, items)",
            found=" and ".join(str(part.shape) for part in parts),
        )
    user = np.concatenate([part.coords[0] for part in parts]).astype(np.int64)
    item = np.concatenate([part.coords[1] for part in parts]).astype(np.int64)
    _refuse_repeats(files, user, item, np.repeat(np.arange(len(parts)), [part.nnz for part in parts]))
    rating = np.concatenate([part.data for part in parts]).astype(np.float64)
    return pd.DataFrame(dict(zip(ROLES, (user, item, rating), strict=True)))


def _entries(path: Path) -> coo_array:
    """Read the stored entries of the one sparse matrix in a file."""
    if not path.is_file():
        raise RatingsError(
            str(path), expected="a file", found="no such file", advice="Put it beside the other part."
        )
    try:
        # Names first: a file with a large variable beside the matrix is refused before it is read.
        names = [name for name, _, _ in whosmat(str(path))]
        matrix: Any = loadmat(str(path))[names[0]] if len(names) == 1 else None
    except Exception as error:  # of whatever kind: scipy meets bytes that are no such file in many ways
        if isinstance(error, OSError) and error.errno is not None:  # else scipy's own: too few bytes
            found = error.strerror or str(error)
            raise RatingsError(str(path), expected="a readable file", found=found) from error
        raise RatingsError(
            str(path),
            expected="a MATLAB file of version 4 to 7",
            found=f"{type(error).__name__}: {error}".rstrip("."),
            advice="Get the file again; if it is of version 7.3, save it with -v7.",
        ) from error
    if len(names) != 1:
        raise RatingsError(
            str(path), expected="one variable, a sparse matrix", found=", ".join(names) or "none"
        )
    if not issparse(matrix) or matrix.dtype.kind not in "biuf":
        found = f"{names[0]}, {type(matrix).__name__} of {getattr(matrix, 'dtype', 'no numbers')}"
        raise RatingsError(str(path), expected="a sparse matrix of real numbers", found=found)
    return coo_array(matrix)


def _refuse_repeats(
    paths: Sequence[Path], user: NDArray[np.int64], item: NDArray[np.int64], part: NDArray[np.int64]
) -> None:
    order = np.lexsort((item, user))
    again = (np.diff(user[order]) == 0) & (np.diff(item[order]) == 0)
    if again.any():
        one, other = order[np.flatnonzero(again)[0] :][:2]
        where = " and ".join(dict.fromkeys(paths[k].name for k in sorted((part[one], part[other]))))
        raise RatingsError(
            _joined(paths),
            expected="each pair of user and item once, in one of the files",
            found=f"({user[one]}, {item[one]}) again, in {where}; {int(again.sum())} in all",
        )


def _joined(paths: Sequence[Path]) -> str:
    return " and ".join(map(str, paths))
