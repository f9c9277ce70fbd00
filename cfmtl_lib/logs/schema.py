"""Schema of the x that a fitted model accepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from numpy.typing import NDArray

from cfmtl_lib.checks import describe
from cfmtl_lib.errors import LogError
from cfmtl_lib.logs.encoding import FeatureRows, FrameEncoder
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.parquet_log import ParquetLog
from cfmtl_lib.logs.tables import is_table
from cfmtl_lib.logs.validation import check_pairs, checked_x


@dataclass(frozen=True)
class InputSchema:
    """Schema of the x of a log: pairs, floats, or the columns of a table.

    Parameters
    ----------
    n_features : int
        Number of columns of x.
    pair_space : (int, int), optional
        Number of users and of items; only for pairs.
    encoder : FrameEncoder, optional
        Encoder of the columns of a table as features.

    Examples
    --------
    >>> schema = InputSchema.from_log(IncentiveLog([[0, 1], [2, 0]], t=[0, 1], c=[0, 0], y=[1, 0]))
    >>> schema
    InputSchema(n_features=2, pair_space=(3, 2), encoder=None)
    >>> schema.matrix([[0.5, 0.1]])
    Traceback (most recent call last):
    ...
    cfmtl_lib.errors.LogError: x: expected (n, 2) integer user and item ids, found float64 of shape (1, 2). \
This model was fitted on pairs.
    """

    n_features: int
    pair_space: tuple[int, int] | None = None
    encoder: FrameEncoder | None = None

    @classmethod
    def from_log(cls, log: IncentiveLog | ParquetLog) -> Self:
        """Read the schema of a log.

        Raises
        ------
        LogError
            If it is no log.
        """
        if not isinstance(log, IncentiveLog | ParquetLog):
            raise LogError("log", expected="an IncentiveLog or a ParquetLog", found=describe(log))
        if isinstance(log, ParquetLog):
            return cls(2, log.pair_space)
        return cls(log.x.shape[1], log.pair_space if log.is_pairs else None, log.encoder)

    of = from_log  # its name in 0.1

    def matrix(self, x: IncentiveLog | FeatureRows, unknown: str = "error") -> NDArray:
        """Convert x to the matrix that models take: (n, 2) int64, or (n, p) floats.

        A log is refused if its encoder differs from that of the fitted log, as its codes would mean other
        categories.

        Parameters
        ----------
        x : IncentiveLog, array_like, DataFrame or (pairs, features)
            Rows of the kind that the fitted log had. Columns of a table are found by name.
        unknown : {"error", "missing", "warn"}
            Treatment of categories that the fitted log did not have; see
            :meth:`~cfmtl_lib.logs.encoding.FrameEncoder.encode`.

        Raises
        ------
        LogError
            If x has another kind or shape than the x of the fitted log, or a value that the schema excludes.
            Also if x is an array, and the fitted log had categories, whose codes cannot be told from values.
        """
        if isinstance(x, IncentiveLog):
            if x.encoder != self.encoder:
                raise LogError(
                    "log",
                    expected="features made as those of the log that was fitted",
                    found="another encoder",
                    advice="Make it by IncentiveLog.from_frame(..., encoder=fitted_log.encoder).",
                )
            x = x.x
        if self.encoder is not None:
            return self.encoder.matrix(x, unknown)
        if self.pair_space is not None:
            return check_pairs(x, *self.pair_space)  # type: ignore[arg-type]  # checked there
        if is_table(x):
            raise LogError(
                "x",
                expected="an array, as in the log",
                found=f"a {type(x).__name__}",
                advice="Fit on IncentiveLog.from_frame to predict from tables, or pass x.to_numpy().",
            )
        features, _ = checked_x(x, pairs=False)
        if features.shape[1] != self.n_features:
            raise LogError(
                "x",
                expected=f"float features of shape (n, {self.n_features})",
                found=f"{features.dtype} of shape {features.shape}",
            )
        return features

    def to_dict(self) -> dict[str, Any]:
        """Convert the schema to values that JSON can hold."""
        return {
            "n_features": self.n_features,
            "pair_space": None if self.pair_space is None else list(self.pair_space),
            "encoder": None if self.encoder is None else self.encoder.to_dict(),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Rebuild a schema from the result of :meth:`to_dict`."""
        space, encoder = stored["pair_space"], stored["encoder"]
        return cls(
            int(stored["n_features"]),
            None if space is None else (int(space[0]), int(space[1])),
            None if encoder is None else FrameEncoder.from_dict(encoder),
        )
