"""What learners of other packages need: columns of numbers, enough rows, and errors in words."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cfmtl_lib.errors import InputError, LogError
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.nuisances.learners import columns_of_numbers
from cfmtl_lib.runtime.registry import storable


@storable
class NumberColumns:
    """Columns of x for learners that take neither codes of categories nor missing numbers.

    Floats without an encoder stay. For columns of a table see
    :func:`~cfmtl_lib.nuisances.learners.columns_of_numbers`.

    Attributes
    ----------
    transformer_ : ColumnTransformer or None
        Fitted transformer; None where there is nothing to do.
    """

    def __init__(self) -> None:
        self.transformer_: Any = None

    def fit(self, log: IncentiveLog) -> Self:
        """Learn levels, medians and scales from a log of features."""
        if log.encoder is not None:
            made = columns_of_numbers(log.encoder).set_params(sparse_threshold=0.0)
            self.transformer_ = made.fit(np.asarray(log.x))
        return self

    def transform(self, x: NDArray) -> NDArray[np.float64]:
        """Prepare rows; shape (n, number of columns), float64, without NaN."""
        values = np.array(x, dtype=np.float64)  # a copy: stochtree wants arrays that can be written to
        return values if self.transformer_ is None else np.asarray(self.transformer_.transform(values))

    def to_parts(self) -> dict[str, Any]:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        return {"transformer": self.transformer_}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any], device: Any) -> Self:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        made = cls()
        made.transformer_ = parts["transformer"]
        return made


def optional_package(module: str, method: str) -> Any:
    """Import a module of a package that the library does not need otherwise.

    Raises
    ------
    InputError
        If it is not installed; the message has the command that installs it.
    """
    package = module.split(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            method,
            expected=f"the package {package}",
            found=f"none that can be imported ({error})"[:200],
            advice=f"Install it: pip install {package}, or this library with its extra 'baselines'.",
        ) from error


def refuse_small_arms(log: IncentiveLog, least: int, method: str) -> None:
    """Refuse a log with too few rows of an arm for a learner of another library.

    Raises
    ------
    LogError
        If an arm has fewer than ``least`` rows.
    """
    treated = int(log.t.sum())
    arm, n_rows = min(((1, treated), (0, len(log) - treated)), key=lambda pair: pair[1])
    if n_rows < least:
        raise LogError(
            "t",
            expected=f"at least {least} rows in each arm for {method}",
            found=f"{n_rows} with t = {arm}",
            advice="Take XLearner, or CFOR, which predict rates where rows are few.",
        )


@contextmanager
def library_errors(method: str, package: str) -> Iterator[None]:
    """Turn an error inside another library into one that says which fit it was.

    Raises
    ------
    InputError
        If the library raises anything.
    """
    try:
        yield
    except (ValueError, TypeError, ArithmeticError, RuntimeError, IndexError, MemoryError) as problem:
        words = (str(problem).strip() or "no message").splitlines()[0]
        raise InputError(
            method,
            expected=f"a log and settings that {package} can fit",
            found=f"{type(problem).__name__}: {words[:200]}",
            advice="Look for columns without variation, or take other settings.",
        ) from problem
