"""Tables of any dataframe library as pandas tables, so that all later code finds columns by name."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cfmtl_lib.checks import describe
from cfmtl_lib.errors import LogError


def is_table(x: object) -> bool:
    """Tell whether x has named columns: a dataframe of pandas, polars, pyarrow or another library.

    Examples
    --------
    >>> is_table(pd.DataFrame({"age": [30]})), is_table(pa.table({"age": [30]})), is_table([[30.0]])
    (True, True, False)
    """
    if isinstance(x, pd.DataFrame | pa.Table | pa.RecordBatch):
        return True
    return isinstance(nw.from_native(x, pass_through=True), nw.DataFrame | nw.LazyFrame)


def as_table(x: object, subject: str = "frame") -> pd.DataFrame:
    """Return a table as a pandas table; columns of other libraries stay Arrow columns, digit by digit.

    Parameters
    ----------
    x : DataFrame
        Table of pandas, polars (eager or lazy), pyarrow, or another library that narwhals knows.
    subject : str
        Name of the argument, for errors.

    Raises
    ------
    LogError
        If it is no table, or a query whose rows have no order yet.

    Examples
    --------
    >>> as_table(pa.table({"age": [30, None]}))["age"].tolist()
    [30, <NA>]
    """
    if isinstance(x, pd.DataFrame):
        return x
    if isinstance(x, pa.RecordBatch):
        x = pa.Table.from_batches([x])
    if not isinstance(x, pa.Table):
        x = _by_narwhals(x, subject)
    if isinstance(x, pd.DataFrame):
        return x
    columns = {k: arrow_series(column) for k, column in enumerate(x.columns)}
    frame = pd.DataFrame(columns, index=pd.RangeIndex(x.num_rows))
    frame.columns = pd.Index(x.column_names, dtype=object)
    return frame


def arrow_series(column: pa.Array | pa.ChunkedArray) -> pd.Series:
    """Return an Arrow column as a Series; a dictionary becomes a pandas categorical.

    Examples
    --------
    >>> arrow_series(pa.array(["Oslo", None]).dictionary_encode()).cat.categories.tolist()
    ['Oslo']
    """
    chunks = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
    if pa.types.is_dictionary(chunks.type):
        return _categorical(chunks)
    if pa.types.is_run_end_encoded(chunks.type):
        chunks = pa.chunked_array([pc.run_end_decode(part) for part in chunks.chunks], chunks.type.value_type)
    try:
        plain = chunks.cast(_plain_texts(chunks.type))
        _ = pd.ArrowDtype(plain.type).type  # raises where pandas cannot compute with the type
        return pd.Series(pd.arrays.ArrowExtensionArray(plain))
    except (NotImplementedError, pa.ArrowException):  # unions and the like, which no feature can be
        return pd.Series(chunks.to_pylist(), dtype=object)


def _categorical(chunks: pa.ChunkedArray) -> pd.Series:
    kind = _plain_texts(chunks.type.value_type)
    dictionaries = [pc.cast(part.dictionary, kind) for part in chunks.chunks]
    levels = pa.chunked_array(dictionaries, kind).drop_null().unique()
    # By value, for a dictionary may hold a level twice, or a missing one, which pandas refuses.
    parts = [
        pc.index_in(dictionary, levels).take(part.indices)
        for part, dictionary in zip(chunks.chunks, dictionaries, strict=True)
    ]
    codes = pa.chunked_array(parts, pa.int32()).fill_null(-1).to_numpy()
    return pd.Series(pd.Categorical.from_codes(codes, categories=pd.Index(arrow_series(levels))))


def _plain_texts(kind: pa.DataType) -> pa.DataType:
    """Return the type of texts that pandas can compute with, for views of texts."""
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    return pa.large_string() if pa.types.is_string_view(kind) else kind


def _by_narwhals(x: Any, subject: str) -> pd.DataFrame | pa.Table:
    frame = nw.from_native(x, pass_through=True)
    if isinstance(frame, nw.LazyFrame):
        if not frame.implementation.is_polars():
            raise LogError(
                subject,
                expected="a table",
                found=f"a query ({describe(x)}), whose rows have no order",
                advice="Compute it first, with its rows in an order that you know.",
            )
        frame = frame.collect()
    if not isinstance(frame, nw.DataFrame):
        raise LogError(
            subject,
            expected="a table (DataFrame of pandas, polars or pyarrow)",
            found=describe(x),
            advice="Make it by pandas.DataFrame(...).",
        )
    return frame.to_pandas() if frame.implementation.is_pandas_like() else frame.to_arrow()
