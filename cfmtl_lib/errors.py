"""Errors that say what was expected, what was found and what to do next.

Every error that comes from input is an :class:`InputError`, hence a ``ValueError``. So callers can
catch one class, and readers see the same three facts everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike


class InputError(ValueError):
    """Input that cannot be used.

    Parameters
    ----------
    subject : str
        Name of the checked input, e.g. ``"column t"``.
    expected, found : str
        Description of accepted input, and of the input that was found instead.
    row : int, optional
        Position (from 0) of the first bad row.
    advice : str, optional
        Next step for the reader.

    Examples
    --------
    >>> raise InputError("budget", expected="a share in [0, 1]", found="1.4", advice="Pass 0.4 for 40 %.")
    Traceback (most recent call last):
    ...
    cfmtl_lib.errors.InputError: budget: expected a share in [0, 1], found 1.4. Pass 0.4 for 40 %.
    """

    def __init__(
        self, subject: str, *, expected: str, found: str, row: int | None = None, advice: str = ""
    ) -> None:
        where = "" if row is None else f" (first at row {row})"
        super().__init__(
            f"{subject}: expected {expected}, found {found}{where}." + (f" {advice}" if advice else "")
        )
        self.subject, self.expected, self.found, self.row, self.advice = subject, expected, found, row, advice

    def __reduce__(self) -> tuple:  # worker processes hand errors back by pickle
        return _rebuild, (type(self), self.subject, self.expected, self.found, self.row, self.advice)


def _rebuild(
    kind: type[InputError], subject: str, expected: str, found: str, row: int | None, advice: str
) -> InputError:
    return kind(subject, expected=expected, found=found, row=row, advice=advice)


class UnitWarning(UserWarning):
    """Cost and value of a conversion that do not look as if they were in one unit."""


class LogError(InputError):
    """An incentive log that cannot be used (shapes, values, an empty arm)."""


class RatingsError(InputError):
    """A ratings table that cannot be used (missing, truncated or malformed file, values out of range)."""


class StudyError(InputError):
    """A semi-synthetic study that cannot be constructed from these ratings."""


class UnknownNameError(InputError):
    """A dataset, labelling, construction, scenario, method or device that the library does not know."""


class ResultsError(InputError):
    """A results file that is missing, or that does not agree with its provenance."""


class ModelFileError(InputError):
    """A file of a fitted model that cannot be written or must not be used."""


class UnknownCategoryWarning(UserWarning):
    """Rows to predict have a category that the fitted log did not have, and it counted as missing."""


class TrustWarning(UserWarning):
    """Number that is given but cannot be trusted as it stands, with the reason and a next step."""


def check_choice(subject: str, value: object, known: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``known``, else raise :class:`UnknownNameError` that lists them.

    Examples
    --------
    >>> check_choice("scenario", "coupon", ("coupon", "cash"))
    'coupon'
    """
    known = tuple(known)
    if not isinstance(value, str) or value not in known:
        found = repr(value) if isinstance(value, str) else f"a {type(value).__name__}"
        raise UnknownNameError(subject, expected="one of " + ", ".join(map(repr, known)), found=found[:80])
    return value


def refuse_rows(
    subject: str,
    wrong: ArrayLike,
    *,
    expected: str,
    found: str | ArrayLike,
    advice: str = "",
    error: type[InputError] = InputError,
) -> None:
    """Raise an error that names the first bad row, if there is one.

    Parameters
    ----------
    subject : str
        Name of the checked input.
    wrong : array_like of shape (n,), bool
        True for each row that cannot be used.
    expected : str
        Description of a good row.
    found : str, or array_like of shape (n,)
        Description of all bad rows, or the values of all rows.
    advice : str, optional
        Next step for the reader.
    error : type
        Class of the error.

    Raises
    ------
    InputError
        If a row is bad; the class is ``error``.

    Examples
    --------
    >>> refuse_rows("cost", [False, True], expected="numbers >= 0", found=[0.4, -1.0])
    Traceback (most recent call last):
    ...
    cfmtl_lib.errors.InputError: cost: expected numbers >= 0, found -1.0 (first at row 1).
    """
    rows = np.flatnonzero(wrong)
    if rows.size:
        row = int(rows[0])
        if not isinstance(found, str):
            value = np.asarray(found)[row]
            text = repr(value.item() if isinstance(value, np.generic) else value)
            found = text if len(text) <= 80 else f"{text[:77]}..."
        raise error(subject, expected=expected, found=found, row=row, advice=advice)
