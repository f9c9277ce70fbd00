"""Scores for tables larger than memory: Parquet in, Parquet out, one chunk at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cfmtl_lib.errors import InputError, LogError, UnknownNameError, check_choice
from cfmtl_lib.estimators.base import LogEstimator, StrataEstimator
from cfmtl_lib.logs.encoding import UNKNOWN, numeric_column
from cfmtl_lib.policy.rewards import expected_reward
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
    unknown: str = "error",
    rows_per_chunk: int = 100_000,
    progress: bool = False,
) -> int:
    """Predict for every row of a Parquet file, in the order of its rows, without reading it as a whole.

    Parameters
    ----------
    model : fitted estimator
        Model of a log that was made from a table
        (:meth:`~cfmtl_lib.logs.incentive_log.IncentiveLog.from_frame`).
    source : str or Path
        Parquet file with the columns of the features.
    target : str or Path
        Parquet file of scores: the columns to keep, the five strata probabilities
        (:data:`STRATA_COLUMNS`) if the model identifies them, and ``reward``. It is written whole or
        not at all.
    keep : sequence of str
        Columns of the source to copy, such as a customer number.
    scenario : {"coupon", "cash"}
    cost : float or str
        Cost of the incentive, or the column that holds that of each row.
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
    LogError
        If a row cannot be scored. It names the column and the row of the file; no target is written.
    InputError
        If the model knows no columns, or a parameter is out of range.
    """
    encoder = model.schema_.encoder
    if encoder is None:
        raise InputError(
            "model",
            expected="one that was fitted to a table (IncentiveLog.from_frame)",
            found="one of arrays, which knows no columns",
        )
    if rows_per_chunk < 1:
        raise InputError("rows_per_chunk", expected="at least 1", found=repr(rows_per_chunk))
    check_choice("unknown", unknown, UNKNOWN)
    source, target = Path(source), Path(target)
    if not source.is_file():
        raise FileNotFoundError(f"There is no file {source}.")
    file = pq.ParquetFile(source)
    needed = [*encoder.names, *keep, *([cost] if isinstance(cost, str) else [])]
    for name in needed:
        if name not in file.schema_arrow.names:
            raise UnknownNameError(
                "column", expected=f"a column of {source.name}: {file.schema_arrow.names}", found=repr(name)
            )
    columns = list(dict.fromkeys(needed))
    n_chunks = math.ceil(file.metadata.num_rows / rows_per_chunk)
    done = 0
    with _replacing_parquet(target) as write:
        chunks = track(
            _chunks(file, columns, rows_per_chunk), total=n_chunks, label="Scoring", enabled=progress
        )
        for chunk in chunks:
            try:
                x = encoder.encode(chunk, unknown)
                costs = numeric_column(chunk, cost) if isinstance(cost, str) else cost
                scores = _scores(model, x, scenario, costs)
            except InputError as error:
                row = None if error.row is None else done + error.row
                raise LogError(
                    error.subject, expected=error.expected, found=error.found, row=row, advice=error.advice
                ) from error
            kept = {name: chunk[name] for name in keep}
            write(pa.Table.from_pandas(pd.DataFrame({**kept, **scores}), preserve_index=False))
            done += len(chunk)
        if done == 0:
            raise LogError(source.name, expected="at least one row", found="none")
    return done


def _chunks(file: pq.ParquetFile, columns: list[str], rows: int) -> Iterator[pd.DataFrame]:
    for batch in file.iter_batches(batch_size=rows, columns=columns):
        yield batch.to_pandas()


def _scores(
    model: LogEstimator, x: np.ndarray, scenario: str, cost: float | np.ndarray
) -> dict[str, np.ndarray]:
    if not isinstance(model, StrataEstimator):
        return {"reward": model.predict_reward(x, scenario, cost)}
    p = model.predict_strata(x)
    strata = dict(zip(STRATA_COLUMNS, p.T, strict=True))
    if type(model).predict_reward is StrataEstimator.predict_reward:  # spares predicting strata twice
        return {**strata, "reward": expected_reward(p, scenario, cost)}
    return {**strata, "reward": model.predict_reward(x, scenario, cost)}


@contextmanager
def _replacing_parquet(path: Path) -> Iterator[Callable[[pa.Table], None]]:
    """Give a function that appends rows to a Parquet file, which is there whole at the end or not at all."""
    writer: pq.ParquetWriter | None = None

    def write(table: pa.Table) -> None:
        nonlocal writer
        if writer is None:
            writer = pq.ParquetWriter(temporary, table.schema)
        writer.write_table(table.cast(writer.schema))

    with replacing(path) as temporary:
        try:
            yield write
        finally:
            if writer is not None:
                writer.close()
