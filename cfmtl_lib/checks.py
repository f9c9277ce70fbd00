"""Checks of single arguments: counts, seeds, numbers and flags.

Every check returns the argument in one type, or raises :class:`~cfmtl_lib.errors.InputError`. Booleans are no
numbers, and a text that looks like a number is none either. Arguments with a value for each row are checked
in :mod:`cfmtl_lib.logs.row_arguments`.
"""

from __future__ import annotations

import math
from decimal import Decimal
from numbers import Real

import numpy as np

from cfmtl_lib.errors import InputError

LARGEST_SEED = 2**32 - 1
"""Largest seed; scikit-learn takes no larger one."""

LARGEST_COUNT = 10**9
"""Largest count of anything: a run of more would never end."""

MOST_JOBS = 1024
"""Largest number of jobs side by side."""

LARGEST_NUMBER = 1e100
"""Largest size of a number; squares of larger ones overflow."""


def describe(value: object) -> str:
    """Describe a value in an error: a short repr, or the type of what has a long one.

    Examples
    --------
    >>> describe("0.4"), describe(np.zeros(1000))
    ("'0.4'", 'a ndarray of shape (1000,)')
    """
    if isinstance(value, np.generic):
        value = value.item()
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"a {type(value).__name__} of shape {shape}"
    try:
        text = repr(value)
    except Exception:  # a repr of a foreign class may fail; the error has to appear nevertheless
        text = ""
    return text if 0 < len(text) <= 80 else f"a {type(value).__name__}"


def check_seed(seed: object, subject: str = "seed") -> int:
    """Return a seed as an int.

    There is no unseeded run: each result has a number that repeats it. So None is refused, and so are
    ``RandomState`` and ``Generator``, whose state a result could not name.

    Parameters
    ----------
    seed : int
        Whole number from 0 to 2**32 - 1; integers of numpy are fine.
    subject : str
        Name of the argument in errors.

    Returns
    -------
    int

    Raises
    ------
    InputError
        If it is anything else.

    Examples
    --------
    >>> check_seed(np.int64(3))
    3
    >>> check_seed(None)
    Traceback (most recent call last):
    ...
    cfmtl_lib.errors.InputError: seed: expected a whole number from 0 to 4294967295, found None. Results \
are repeated by their seed. For another one each time, draw it: numpy.random.default_rng().integers(2**32).
    """
    whole = whole_number(seed)
    if whole is None or not 0 <= whole <= LARGEST_SEED:
        if isinstance(seed, np.random.RandomState | np.random.Generator):
            advice = "Draw a number from it: seed=int(rng.integers(2**32))."
        else:
            advice = (
                "Results are repeated by their seed. For another one each time, draw it: "
                "numpy.random.default_rng().integers(2**32)."
            )
        raise InputError(
            subject,
            expected=f"a whole number from 0 to {LARGEST_SEED}",
            found=describe(seed),
            advice=advice,
        )
    return whole


def check_count(value: object, subject: str, *, least: int = 1, most: int = LARGEST_COUNT) -> int:
    """Return a count as an int; floats are refused even if they are whole.

    Parameters
    ----------
    value : int
        Count; integers of numpy are fine.
    subject : str
        Name of the argument in errors.
    least, most : int
        Bounds of the count, both included.

    Returns
    -------
    int

    Raises
    ------
    InputError
        If it is no integer, or out of bounds.

    Examples
    --------
    >>> check_count(np.int32(5), "folds", least=2)
    5
    >>> check_count(5.0, "folds", least=2)
    Traceback (most recent call last):
    ...
    cfmtl_lib.errors.InputError: folds: expected a whole number >= 2, found 5.0. Pass an int.
    """
    whole = whole_number(value)
    if whole is None or not least <= whole <= most:
        bounds = f">= {least}" if most == LARGEST_COUNT else f"from {least} to {most}"
        raise InputError(
            subject,
            expected=f"a whole number {bounds}",
            found=describe(value),
            advice="Pass an int." if whole is None else "",
        )
    return whole


def whole_number(value: object) -> int | None:
    """Return an int for an integer of Python or numpy; None for anything else, booleans and floats too."""
    if isinstance(value, np.ndarray) and value.ndim == 0 and not isinstance(value, np.ma.MaskedArray):
        value = value[()]
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        return None
    return int(value)


def check_flag(value: object, subject: str) -> bool:
    """Return True or False; a text ("no") or a number would count as true by accident.

    Raises
    ------
    InputError
        If it is no boolean.
    """
    if not isinstance(value, bool | np.bool_):
        raise InputError(subject, expected="True or False", found=describe(value))
    return bool(value)


def check_number(
    value: object,
    subject: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    low_open: bool = False,
    high_open: bool = False,
    advice: str = "",
) -> float:
    """Return a finite number as a float.

    Parameters
    ----------
    value : float
        Number of Python or numpy, ``Decimal`` or ``Fraction``.
    subject : str
        Name of the argument in errors.
    low, high : float
        Bounds of the number.
    low_open, high_open : bool
        True if the bound itself is refused.
    advice : str
        Next step for the reader.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If it is no real number (a boolean, text, complex number, array), NaN, infinite or out of bounds.

    Examples
    --------
    >>> check_number(Decimal("0.4"), "budget", low=0, high=1)
    0.4
    >>> check_number(True, "cost", low=0)
    Traceback (most recent call last):
    ...
    cfmtl_lib.errors.InputError: cost: expected a finite number >= 0, found True.
    """
    number = real_number(value)
    below = number <= low if low_open else number < low
    above = number >= high if high_open else number > high
    if not abs(number) <= LARGEST_NUMBER or below or above:
        raise InputError(
            subject,
            expected=interval(low, high, low_open, high_open),
            found=describe(value),
            advice=advice,
        )
    return number


def real_number(value: object) -> float:
    """Return a real number as a float; NaN for anything else, booleans and texts too."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, bool | np.bool_) or value is np.ma.masked:
        return math.nan
    if not isinstance(value, Real | Decimal):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except ValueError:  # a signalling NaN of decimal
        return math.nan


def interval(low: float, high: float, low_open: bool = False, high_open: bool = False) -> str:
    """Describe a number within bounds, ends of which may be infinite.

    Examples
    --------
    >>> interval(0, 1), interval(0, math.inf)
    ('a number in [0, 1]', 'a finite number >= 0')
    """
    if math.isfinite(low) and math.isfinite(high):
        return f"a number in {'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"
    bounds = [f" {'>' if low_open else '>='} {low:g}"] if math.isfinite(low) else []
    bounds += [f" {'<' if high_open else '<='} {high:g}"] if math.isfinite(high) else []
    return "a finite number" + "".join(bounds)


def check_level(level: object, subject: str = "level") -> float:
    """Return a confidence level in (0, 1) as a float.

    Raises
    ------
    InputError
        If it is anything else; 95 is taken for a percentage.
    """
    number = real_number(level)
    advice = f"Pass {number / 100:g} for {number:g} %." if 1 < number < 100 else ""
    return check_number(level, subject, low=0, high=1, low_open=True, high_open=True, advice=advice)


def check_jobs(n_jobs: object, subject: str = "n_jobs") -> int:
    """Return a number of jobs: a whole number other than 0, where -1 means all cores as in joblib.

    Raises
    ------
    InputError
        If it is anything else.
    """
    whole = whole_number(n_jobs)
    if not whole or not -MOST_JOBS <= whole <= MOST_JOBS:
        raise InputError(subject, expected="a whole number, or -1 for all cores", found=describe(n_jobs))
    return whole
