"""Scores for tables larger than memory: Parquet in, Parquet out, one chunk at a time."""

from __future__ import annotations

import fnmatch
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cfmtl_lib.checks import check_count
from cfmtl_lib.errors import InputError, LogError, check_choice, refuse_rows
from cfmtl_lib.estimators.base import LogEstimator, StrataEstimator
from cfmtl_lib.logs.columns import UNKNOWN, numeric_column
from cfmtl_lib.logs.parquet_files import ParquetPart, frame_of, open_parquet, same_types
from cfmtl_lib.policy.rewards import SCENARIOS, expected_reward
from cfmtl_lib.runtime.files import replacing
from cfmtl_lib.runtime.progress import track
from cfmtl_lib.strata import STRATA

STRATA_COLUMNS = tuple(f"p_{name.replace(' ', '_')}" for name in STRATA)
"""Names of the columns of strata probabilities in a file of scores."""


def score_parquet(
    model: LogEstimator,
    source: str | Path,
    target: str | Path,
    *,
    keep: Sequence[str] = (),
    scenario: str = "coupon",
    cost: float | str,
    conversion_value: float | str | None = None,
    unknown: str = "error",
    rows_per_chunk: int = 100_000,
    progress: bool = False,
) -> int:
    """Predict for every row of Parquet files, in the order of their rows, without reading them as a whole.

    Parameters
    ----------
    model : fitted estimator
        Model of a log that was made from a table
        (:meth:`~cfmtl_lib.logs.incentive_log.IncentiveLog.from_frame`).
    source : str or Path
        Parquet file with the columns of the features, in any order. A folder or a pattern such as
        ``"customers/*.parquet"`` stands for its files in the order of their names.
    target : str or Path
        Parquet file of scores: the columns to keep, the five strata probabilities
        (:data:`STRATA_COLUMNS`) if the model identifies them, and ``reward``. It is written whole or
        not at all. It can be no file of the source, nor lie in a folder that is the source.
    keep : sequence of str
        Columns of the source to copy, such as a customer number. Types and values stay as they are. Whole
        numbers with missing values are read back by pandas as its ``Int64``, with every digit.
    scenario : {"coupon", "cash"}
    cost : float or str
        Cost of the incentive, or the column that holds that of each row.
    conversion_value : float or str, optional
        Value of a conversion before the incentive is paid, or the column that holds that of each row. If
        given, costs and rewards are in its units. See :func:`~cfmtl_lib.policy.rewards.expected_reward`.
    unknown : {"error", "missing"}
        Treatment of a category that the log did not have.
    rows_per_chunk : int
        Number of rows in memory at once.
    progress : bool
        Whether to report progress on stderr.

    Returns
    -------
    int
        Number of rows.

    Raises
    ------
    FileNotFoundError
        If there is no source file.
    UnknownNameError
        If a file lacks a column. It names the file.
    LogError
        If a row cannot be scored. It names the file, the column and the row in it; no target is written.
        Also if a file is damaged, or columns have other types in other files.
    InputError
        If the model knows no columns, a parameter is out of range, or the target is a source. Also if a kept
        column has the name of a score.
    """
    encoder = model.schema_.encoder
    if encoder is None:
        raise InputError(
            "model",
            expected="one that was fitted to a table (IncentiveLog.from_frame)",
            found="one of arrays, which knows no columns",
        )
    rows_per_chunk = check_count(rows_per_chunk, "rows_per_chunk")
    check_choice("unknown", unknown, UNKNOWN)
    check_choice("scenario", scenario, SCENARIOS)
    keep = _checked_keep(keep, model)
    of_rows = [column for column in (cost, conversion_value) if isinstance(column, str)]
    needed = list(dict.fromkeys([*encoder.names, *keep, *of_rows]))
    parts = open_parquet(source, needed)
    target = Path(target).expanduser()
    _refuse_overwriting(source, target, parts)
    writer = _ScoreWriter(parts, keep)
    done = 0
    with _replacing_parquet(target) as write:
        n_chunks = sum(math.ceil(part.n_rows / rows_per_chunk) for part in parts)
        chunks = track(
            _chunks(parts, needed, rows_per_chunk), total=n_chunks, label="Scoring", enabled=progress
        )
        for part, start, chunk in chunks:
            try:
                frame = frame_of(
                    chunk.select([name for name in needed if name in of_rows or name in encoder.names])
                )
                x = encoder.encode(frame, unknown)
                worth = [
                    numeric_column(frame, given) if isinstance(given, str) else given
                    for given in (cost, conversion_value)
                    if given is not None
                ]
                scores = _scores(model, x, scenario, worth)
                refuse_rows(
                    "reward",
                    ~np.isfinite(scores["reward"]),
                    expected="finite rewards from the model",
                    found=scores["reward"],
                )
            except InputError as error:
                raise LogError(
                    f"{part.path.name}, {error.subject}" if error.row is not None else error.subject,
                    expected=error.expected,
                    found=error.found,
                    row=None if error.row is None else start + error.row,
                    advice=error.advice,
                ) from error
            write(writer.table(chunk, scores))
            done += chunk.num_rows
        if done == 0:
            raise LogError(str(source), expected="at least one row", found="none")
    return done


class _ScoreWriter:
    """Maker of the rows of the target: the kept columns as they are, then the scores."""

    def __init__(self, parts: Sequence[ParquetPart], keep: Sequence[str]) -> None:
        self.kept = same_types(parts, keep)
        # pandas reads whole numbers with missing values as floats, unless told otherwise.
        empty = {
            field.name: pd.Series([], dtype=frame_of(self.kept.empty_table())[field.name].dtype)
            for field in self.kept
            if pa.types.is_integer(field.type) and any(part.null_count(field.name) != 0 for part in parts)
        }
        self.metadata = (
            pa.Schema.from_pandas(pd.DataFrame(empty), preserve_index=False).metadata if empty else {}
        )

    def table(self, chunk: pa.Table, scores: dict[str, np.ndarray]) -> pa.Table:
        """Put the kept columns of a chunk beside its scores."""
        kept = [chunk.column(field.name).cast(field.type) for field in self.kept]
        fields = [*self.kept, *(pa.field(name, pa.float64()) for name in scores)]
        columns = [*kept, *(pa.array(values, pa.float64()) for values in scores.values())]
        return pa.Table.from_arrays(columns, schema=pa.schema(fields, metadata=self.metadata))


def _checked_keep(keep: Sequence[str], model: LogEstimator) -> list[str]:
    names = [] if isinstance(keep, str) else list(keep)
    if isinstance(keep, str) or not all(isinstance(name, str) for name in names):
        raise InputError("keep", expected="a list of names of columns", found=repr(keep))
    for k, name in enumerate(names):
        if name in names[:k]:
            raise InputError("keep", expected="each column once", found=f"{name!r} twice")
        if name == "reward" or (name in STRATA_COLUMNS and isinstance(model, StrataEstimator)):
            raise InputError(
                "keep",
                expected="columns whose names differ from those of the scores",
                found=repr(name),
                advice="Rename it in the source: the target cannot have two columns of one name.",
            )
    return names


def _refuse_overwriting(source: str | Path, target: Path, parts: Sequence[ParquetPart]) -> None:
    """Refuse a target that is a source, or that the same call would read as a source the next time."""
    inside = ""
    given, real = Path(source).expanduser(), target.resolve()
    if any(part.path.resolve() == real for part in parts) or (
        target.exists() and any(os.path.samefile(target, part.path) for part in parts)
    ):
        inside = "a file of the source"
    elif given.is_dir() and real.is_relative_to(given.resolve()):
        inside = "a file in the folder of the source"
    elif not given.exists() and _matches(real, os.path.abspath(given)):
        inside = "a file that the pattern of the source includes"
    if inside:
        raise InputError(
            "target",
            expected="a file apart from the source",
            found=f"{target}, {inside}",
            advice="Write the scores elsewhere; name the key of a row in keep to join them.",
        )
    folder = next(parent for parent in (target, *real.parents) if parent.exists())
    if target.is_dir() or (folder != target and not folder.is_dir()):
        raise InputError(
            "target",
            expected="the path of a file in a folder",
            found=f"{target}, where {folder} is a {'folder' if folder.is_dir() else 'file'}",
        )


def _matches(path: Path, pattern: str) -> bool:
    return fnmatch.fnmatch(str(path), pattern) if "**" in pattern else path.match(pattern)


def _chunks(
    parts: Sequence[ParquetPart], columns: list[str], rows: int
) -> Iterator[tuple[ParquetPart, int, pa.Table]]:
    """Yield the file of each chunk, the row of the file at which it starts, and its columns."""
    for part in parts:
        start = 0
        for chunk in part.batches(rows, columns):
            yield part, start, chunk
            start += chunk.num_rows


def _scores(
    model: LogEstimator, x: np.ndarray, scenario: str, worth: Sequence[float | np.ndarray]
) -> dict[str, np.ndarray]:
    """Predict with the cost and, if it is given, the value of a conversion."""
    if not isinstance(model, StrataEstimator):
        return {"reward": model.predict_reward(x, scenario, *worth)}
    p = model.predict_strata(x)
    strata = dict(zip(STRATA_COLUMNS, p.T, strict=True))
    if type(model).predict_reward is StrataEstimator.predict_reward:  # spares predicting strata twice
        return {**strata, "reward": expected_reward(p, scenario, *worth)}
    return {**strata, "reward": model.predict_reward(x, scenario, *worth)}


@contextmanager
def _replacing_parquet(path: Path) -> Iterator[Callable[[pa.Table], None]]:
    """Give a function that appends rows to a Parquet file, which is there whole at the end or not at all."""
    writer: pq.ParquetWriter | None = None

    def write(table: pa.Table) -> None:
        nonlocal writer
        if writer is None:
            writer = pq.ParquetWriter(temporary, table.schema)
        writer.write_table(table)

    with replacing(path) as temporary:
        try:
            yield write
        finally:
            if writer is not None:
                writer.close()
