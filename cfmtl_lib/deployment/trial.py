"""Trial of a model on two made-up rows, which shows parts that do not work together."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfmtl_lib.deployment.auto_policy import AutoPolicy
from cfmtl_lib.errors import ModelFileError
from cfmtl_lib.estimators.base import LogEstimator, StrataEstimator
from cfmtl_lib.estimators.cells.boosted_cells import BoostedStrata
from cfmtl_lib.estimators.effects.base import EffectInput
from cfmtl_lib.logs.encoding import EncodedRows
from cfmtl_lib.logs.schema import InputSchema
from cfmtl_lib.models.feature_networks import FeatureScaler
from cfmtl_lib.policy.rewards import SCENARIOS

MOST_FEATURES = 1_000_000


def check_schema(schema: InputSchema) -> None:
    """Check that the parts of a schema agree.

    Raises
    ------
    ModelFileError
        If they do not.
    """
    n, space, encoder = schema.n_features, schema.pair_space, schema.encoder
    holds = 0 < n <= MOST_FEATURES and (encoder is None or (space is None and len(encoder.columns) == n))
    if space is not None:
        holds = holds and n == 2 and min(space) > 0
    for column in () if encoder is None else encoder.columns:
        levels, is_number = column.categories, column.kind == "number"
        plain = all(isinstance(level, str | int | float) for level in (column.name, *levels))
        holds = holds and plain and len(set(levels)) == len(levels) and not (is_number and levels)
    if not holds:
        raise ModelFileError("schema", expected="one kind of x", found=repr(schema)[:200])


def trial_rows(schema: InputSchema) -> NDArray:
    """Make two rows of x: the least ids and codes and 0, then the largest ids and codes and 1.

    Examples
    --------
    >>> trial_rows(InputSchema(2, pair_space=(3, 2))).tolist()
    [[0, 0], [2, 1]]
    """
    if schema.pair_space is not None:
        return np.array([[0, 0], [size - 1 for size in schema.pair_space]], dtype=np.int64)
    rows = np.stack([np.zeros(schema.n_features), np.ones(schema.n_features)])
    if schema.encoder is None:
        return rows
    for k, column in enumerate(schema.encoder.columns):
        if column.kind == "category":
            rows[1, k] = len(column.categories)
    return EncodedRows.of(rows, schema.encoder)


def try_model(model: LogEstimator) -> Exception | None:
    """Predict for two made-up rows; return what went wrong, None if nothing did.

    A model can be good and yet refuse such rows, such as a user's own pipeline of other categories.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rows that no user gave
        try:
            rows = trial_rows(model.schema_)
            questions: list[tuple[Any, ...]] = [(scenario, 0.4) for scenario in SCENARIOS]
            if isinstance(model, AutoPolicy):  # answers the one that it was chosen for
                questions = [()]
            found = [model.predict_reward(rows, *question) for question in questions]
            if isinstance(model, StrataEstimator):
                found += list(np.asarray(model.predict_strata(rows)).T)
            for values in found:
                if np.shape(values) != (len(rows),):
                    raise TypeError(f"predictions of shape {np.shape(values)} for {len(rows)} rows")
                if not np.isfinite(values).all():
                    raise ValueError("predictions that are not finite")
        except Exception as error:  # of whatever kind: the parts are not trusted
            return error
    return None


def check_cells(model: LogEstimator) -> None:
    """Check that networks or trees of features were made for the columns of the schema.

    Raises
    ------
    ModelFileError
        If they take other columns, or other numbers of levels: an accelerator does not look.
    """
    cells = getattr(model, "network_", None)
    if isinstance(cells, BoostedStrata) and cells.n_columns != model.schema_.n_features:
        raise ModelFileError("network_", expected="trees of the columns of the schema", found="of others")
    scaler = getattr(cells, "scaler", None)
    if not isinstance(scaler, FeatureScaler):
        return
    prepared = getattr(model, "input_", None)
    schema = prepared.prepared_schema(model.schema_) if isinstance(prepared, EffectInput) else model.schema_
    columns = () if schema.encoder is None else schema.encoder.columns
    codes = tuple(k for k, column in enumerate(columns) if column.kind == "category")
    levels = tuple(len(columns[k].categories) + 1 for k in codes)
    n_columns = len(scaler.numbers) + len(scaler.codes)
    if (n_columns, tuple(scaler.codes), tuple(scaler.levels)) != (schema.n_features, codes, levels):
        raise ModelFileError("network_", expected="networks of the columns of the schema", found="of others")
