"""Checks of learners of scikit-learn's kind: what they are before a fit, and what they give after it."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor

from cfmtl_lib.checks import describe
from cfmtl_lib.errors import InputError


def check_classifier(learner: Any, subject: str) -> BaseEstimator:
    """Return a classifier that predicts probabilities, or raise an error for anything else.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> check_classifier(LinearRegression(), "outcome")
    Traceback (most recent call last):
    ...
    cfmtl_lib.errors.InputError: outcome: expected a classifier with fit and predict_proba, found \
LinearRegression(). Means of 0/1 outcomes are probabilities: use a classifier.
    """
    if inspect.isclass(learner) or not all(hasattr(learner, name) for name in ("fit", "get_params")):
        _refuse(learner, subject, "a classifier with fit and predict_proba")
    if not hasattr(learner, "predict_proba"):
        raise InputError(
            subject,
            expected="a classifier with fit and predict_proba",
            found=describe(learner),
            advice="Means of 0/1 outcomes are probabilities: use a classifier."
            if is_regressor(learner)
            else "Wrap it in CalibratedClassifierCV, say.",
        )
    return learner


def check_regressor(learner: Any, subject: str) -> BaseEstimator:
    """Return a regressor, or raise an error for a classifier and for anything else."""
    if inspect.isclass(learner) or not all(hasattr(learner, n) for n in ("fit", "predict", "get_params")):
        _refuse(learner, subject, "a regressor with fit and predict")
    if is_classifier(learner):
        raise InputError(
            subject,
            expected="a regressor",
            found=describe(learner),
            advice="Its targets are no probabilities: they leave [0, 1].",
        )
    return learner


def _refuse(learner: Any, subject: str, expected: str) -> None:
    raise InputError(
        subject,
        expected=expected,
        found=f"the class {learner.__name__}" if inspect.isclass(learner) else describe(learner),
        advice="Pass an instance: with brackets." if inspect.isclass(learner) else "",
    )


def fit_clone(learner: BaseEstimator, x: NDArray, target: NDArray, what: str) -> BaseEstimator:
    """Fit a clone of a learner; an error inside it says which fit it was.

    Raises
    ------
    InputError
        If the learner cannot be fitted to these rows.
    """
    try:
        return clone(learner).fit(x, target)
    except InputError:
        raise
    except (ValueError, TypeError, AttributeError, IndexError, KeyError, ArithmeticError) as problem:
        raise InputError(
            what,
            expected=f"x of shape {x.shape} and {x.dtype} that {type(learner).__name__} can be fitted to",
            found=f"{type(problem).__name__}: {str(problem).strip().splitlines()[0][:200]}",
            advice="Fit it alone to such features, or leave the learner out for the default.",
        ) from problem


def probabilities_of_one(model: BaseEstimator, x: NDArray, what: str) -> NDArray[np.float64]:
    """Predict the probability of 1 at rows of x, by a classifier fitted to 0 and 1.

    Raises
    ------
    InputError
        If the classes are not 0 and 1, or what it predicts are no probabilities.
    """
    classes = np.ravel(getattr(model, "classes_", (0, 1))).tolist()
    if classes != [0, 1]:
        raise InputError(
            what, expected="a classifier of the classes 0 and 1", found=f"classes {describe(classes)}"
        )
    p = np.asarray(model.predict_proba(x), dtype=np.float64)
    if p.shape != (len(x), 2) or not (np.isfinite(p).all() and (p >= -1e-9).all() and (p <= 1 + 1e-9).all()):
        raise InputError(
            what,
            expected=f"probabilities of shape ({len(x)}, 2) in [0, 1] from predict_proba",
            found=f"shape {p.shape}" if p.shape != (len(x), 2) else "NaN, or values outside [0, 1]",
        )
    return p[:, 1].clip(0.0, 1.0)
