"""Checks of learners of scikit-learn whose compiled code follows indices without looking.

Trees name their children, features and sets of categories by number. A number out of range reads foreign
memory; a child that is its own ancestor is followed forever. scikit-learn makes neither, a file can.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from sklearn.base import BaseEstimator
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.ensemble._forest import BaseForest
from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.neighbors._base import NeighborsBase
from sklearn.svm._base import BaseLibSVM
from sklearn.tree import BaseDecisionTree
from sklearn.tree._tree import NODE_DTYPE, Tree

from cfmtl_lib.errors import ModelFileError

LEAF = -1
WORDS_OF_A_SET = 8
"""Words of 32 bits in a set of categories."""


def check_object(learner: object) -> None:
    """Check a learner and all that it holds.

    Raises
    ------
    ModelFileError
        If a part could make scikit-learn read outside its arrays, never end, or is of a compiled type that
        is not known here.
    """
    waiting, seen = [learner], {id(learner)}
    while waiting:
        value = waiting.pop()
        for kind, fitted, check in _CHECKS:
            if isinstance(value, kind) and (not fitted or fitted in vars(value)):
                check(value)
        for inner in _parts_of(value):
            if id(inner) not in seen:
                seen.add(id(inner))
                waiting.append(inner)


def check_tree_nodes(
    n_features: int,
    n_classes: NDArray[np.int64],
    n_outputs: int,
    *,
    max_depth: int,
    node_count: int,
    nodes: NDArray[np.void],
    values: NDArray[np.float64],
) -> None:
    """Check the state of a tree before it is made.

    Parameters
    ----------
    n_features : int
    n_classes : ndarray of shape (n_outputs,), int64
        Number of classes of each output; 1 for a regression.
    n_outputs : int
    max_depth : int
    node_count : int
    nodes : ndarray of shape (node_count,)
        Nodes, with the fields of scikit-learn's trees.
    values : ndarray of shape (node_count, n_outputs, max(n_classes)), float64

    Raises
    ------
    ModelFileError
        If they do not fit together, a child is no later node, or a feature is not there.
    """
    n_features, n_outputs, count, _ = map(
        partial(_number, most=1 << 31), (n_features, n_outputs, node_count, max_depth)
    )
    _require(
        _is_array(n_classes, np.int64, (n_outputs,)) and n_outputs > 0, "the number of classes by output"
    )
    _require(
        bool((n_classes > 0).all()) and n_features > 0 and count > 0, "at least one class, feature and node"
    )
    _require(_is_array(nodes, NODE_DTYPE, (count,)), f"{count} nodes of scikit-learn's trees")
    _require(
        _is_array(values, np.float64, (count, n_outputs, int(n_classes.max())))
        and bool(np.isfinite(values).all()),
        "a finite value for each node, output and class",
    )
    is_leaf = nodes["left_child"] == LEAF
    _check_children(is_leaf, nodes["left_child"], nodes["right_child"])
    split = nodes[~is_leaf]
    _require(_within(split["feature"], n_features), f"features 0 to {n_features - 1}")
    _require(not np.isnan(split["threshold"]).any(), "thresholds")


def _check_children(is_leaf: NDArray[np.bool_], left: NDArray, right: NDArray) -> None:
    """Require two later nodes as children, each of one parent: so every path ends."""
    parents = np.flatnonzero(~is_leaf)
    children = np.stack([left[parents], right[parents]]).astype(np.int64)
    later = bool(((children > parents) & (children < len(is_leaf))).all())
    _require(later and len(np.unique(children)) == children.size, "two later nodes as the children of a node")


def _check_tree(tree: Any) -> None:
    """Require that nothing lies beyond the nodes, which :func:`check_tree_nodes` saw before."""
    _require(tree.node_count == tree.capacity, "a tree without room to spare")


def _check_tree_estimator(model: Any) -> None:
    n_features = _features_of(model)
    tree = model.tree_
    _require(isinstance(tree, Tree) and tree.n_features == n_features, f"a tree of {n_features} features")


def _check_forest(model: Any) -> None:
    n_features = _features_of(model)
    trees = model.estimators_
    _require(isinstance(trees, list) and len(trees) > 0, "at least one tree")
    for tree in trees:
        _require(
            isinstance(tree, BaseDecisionTree) and _features_of(tree) == n_features,
            "trees of the same features",
        )


def _check_gradient_boosting(model: Any) -> None:
    n_features = _features_of(model)
    trees = model.estimators_
    _require(
        isinstance(trees, np.ndarray) and trees.ndim == 2 and trees.shape[1] == 1, "one tree for each step"
    )
    _require(model.n_trees_per_iteration_ == 1, "one tree for each step")
    for tree in trees.ravel():
        _require(
            isinstance(tree, BaseDecisionTree) and _features_of(tree) == n_features,
            "trees of the same features",
        )


def _check_histogram_boosting(model: Any) -> None:
    n_features = _features_of(model)
    mapper, rounds = model._bin_mapper, model._predictors
    coded = np.asarray(mapper.is_categorical_)
    _require(
        coded.shape == (n_features,) and len(mapper.bin_thresholds_) == n_features,
        f"bins of {n_features} features",
    )
    _require(
        model.n_trees_per_iteration_ == 1 and not getattr(model, "_in_fit", False), "one tree for each step"
    )
    _require(
        isinstance(rounds, list) and all(isinstance(r, list) and len(r) == 1 for r in rounds),
        "one tree for each step",
    )
    for (tree,) in rounds:
        _require(isinstance(tree, TreePredictor), "trees")
        nodes = tree.nodes
        _require(
            _within(nodes["feature_idx"][nodes["is_leaf"] == 0], n_features),
            f"features 0 to {n_features - 1}",
        )
        by_set = nodes[(nodes["is_leaf"] == 0) & (nodes["is_categorical"] != 0)]
        _require(
            bool(coded[by_set["feature_idx"]].astype(bool).all()), "sets of categories for categories only"
        )
    if getattr(model, "_preprocessor", None) is not None:
        found = model._preprocessor.transform(np.zeros((1, n_features)))
        _require(np.shape(found) == (1, n_features), f"{n_features} features after they were prepared")


def _check_predictor(tree: Any) -> None:
    nodes, sets = tree.nodes, tree.raw_left_cat_bitsets
    _require(
        isinstance(nodes, np.ndarray)
        and nodes.dtype == PREDICTOR_RECORD_DTYPE
        and nodes.ndim == 1
        and len(nodes) > 0,
        "nodes of scikit-learn's trees",
    )
    is_leaf = nodes["is_leaf"] != 0
    _check_children(is_leaf, nodes["left"], nodes["right"])
    _require(
        bool(np.isfinite(nodes["value"]).all()) and not np.isnan(nodes["num_threshold"]).any(),
        "finite values",
    )
    _require(_is_array(sets, np.uint32, (len(sets), WORDS_OF_A_SET)), "sets of categories")
    by_set = nodes[~is_leaf & (nodes["is_categorical"] != 0)]
    _require(_within(by_set["bitset_idx"], len(sets)), f"sets 0 to {len(sets) - 1}")


def _check_spline(spline: Any) -> None:
    knots, coefficients, degree = (vars(spline)[name] for name in ("_t", "_c", "k"))
    degree = _number(degree, most=99)
    _require(
        isinstance(knots, np.ndarray)
        and isinstance(coefficients, np.ndarray)
        and coefficients.dtype == np.float64,
        "knots and coefficients",
    )
    made = BSpline(knots, coefficients, degree, bool(spline.extrapolate), int(spline.axis))  # checks them
    vars(spline).clear()
    vars(spline).update(vars(made))


def _check_vectors(model: Any) -> None:
    """Check what libsvm takes: vectors, how many belong to each class, and their weights."""
    n_features, vectors = _features_of(model), model.support_vectors_
    n = len(vectors)
    _require(_is_array(vectors, np.float64, (n, n_features)), f"vectors of {n_features} features")
    _require(_is_array(model.support_, np.int32, (n,)), f"{n} positions")
    by_class = model._n_support
    of_classes = model._impl in ("c_svc", "nu_svc")
    pairs = 1
    if of_classes:
        _require(
            _is_array(by_class, np.int32, (2,)) and bool((by_class >= 0).all()) and by_class.sum() == n,
            "two classes",
        )
    else:
        _require(_is_array(by_class, np.int32, (2,)) and by_class[0] == n, f"{n} vectors")
    _require(_is_array(model._dual_coef_, np.float64, (1, n)), f"{n} weights")
    _require(_is_array(model._intercept_, np.float64, (pairs,)), "one intercept")
    for name in ("_probA", "_probB"):
        _require(np.asarray(getattr(model, name)).shape in ((0,), (pairs,)), "calibration")
    _require(isinstance(model.kernel, str) and model.kernel != "precomputed", "a kernel of its own")
    _require(not model._sparse, "dense vectors")


def _check_neighbours(model: Any) -> None:
    """Check the rows that neighbours are looked for in, and the classes that are counted."""
    rows = model._fit_X
    shape = (_number(model.n_samples_fit_, most=1 << 40), _features_of(model))
    _require(isinstance(rows, np.ndarray) and rows.dtype.kind == "f" and rows.shape == shape, "rows of x")
    classes, y = vars(model).get("classes_"), vars(model).get("_y")
    if isinstance(classes, np.ndarray):
        _require(
            isinstance(y, np.ndarray) and y.dtype.kind == "i" and len(y) == len(rows), "a class of each row"
        )
        _require(_within(y, len(classes)), "classes that are there")


def _check_centres(model: Any) -> None:
    centres = model.cluster_centers_
    _require(
        isinstance(centres, np.ndarray) and centres.ndim == 2 and centres.shape[1] == _features_of(model),
        "centres of the features",
    )


_CHECKS: list[tuple[type | tuple[type, ...], str, Callable[[Any], None]]] = [
    (Tree, "", _check_tree),
    (TreePredictor, "", _check_predictor),
    (BSpline, "", _check_spline),
    (BaseDecisionTree, "tree_", _check_tree_estimator),
    (BaseForest, "estimators_", _check_forest),
    ((GradientBoostingClassifier, GradientBoostingRegressor), "estimators_", _check_gradient_boosting),
    (
        (HistGradientBoostingClassifier, HistGradientBoostingRegressor),
        "_predictors",
        _check_histogram_boosting,
    ),
    (BaseLibSVM, "support_vectors_", _check_vectors),
    (NeighborsBase, "_fit_X", _check_neighbours),
    (BaseEstimator, "cluster_centers_", _check_centres),
]
"""Type, the attribute that it has once it is fitted, and the check."""

_NUMBERS_AND_TEXTS = (type(None), bool, int, float, complex, str, bytes, slice, range, np.generic, np.dtype)

_FUNCTIONS = (type, np.ufunc, types.FunctionType, types.BuiltinFunctionType, type(np.sum))

_PLAIN = (*_NUMBERS_AND_TEXTS, *_FUNCTIONS, np.random.RandomState, np.random.Generator, Tree)


def _parts_of(value: object) -> Iterator[object]:
    """Give what a value holds; refuse a compiled type that is not known here."""
    if isinstance(value, _PLAIN) or type(value).__module__ == "sklearn._loss._loss":
        return
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            yield from value.ravel()
        return
    if isinstance(value, dict):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value
    elif isinstance(value, partial):
        yield from (value.func, value.args, value.keywords)
    elif not type(value).__flags__ & _PYTHON_CLASS:
        raise ModelFileError(
            "learner",
            expected="parts that can be checked",
            found=f"{type(value).__module__}.{type(value).__name__}",
        )
    yield from getattr(value, "__dict__", {}).values()


_PYTHON_CLASS = 1 << 9
"""Flag of types that Python code defines."""


def _features_of(model: BaseEstimator) -> int:
    return _number(vars(model).get("n_features_in_"), most=1 << 31)


def _number(value: object, most: int) -> int:
    _require(
        isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 <= int(value) <= most,
        "a count",
    )
    return int(value)  # type: ignore[call-overload]


def _is_array(value: object, dtype: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.dtype(dtype) and value.shape == shape


def _within(values: NDArray, size: int) -> bool:
    return bool(((values >= 0) & (values < size)).all())


def _require(holds: bool, expected: str) -> None:
    if not holds:
        raise ModelFileError(
            "learner", expected=expected, found="other content", advice="The file was changed: do not use it."
        )
