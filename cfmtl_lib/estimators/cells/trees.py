"""Boosted trees of LightGBM: fits of several logits to a loss of our own, and files that are looked at first.

A fitted model is text, which holds numbers and nothing that runs. LightGBM follows the indices of a text as
they stand. So they are checked before a file that somebody sent is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple, Self

import numpy as np
import torch  # noqa: F401  # before LightGBM: it brings the OpenMP library that some machines lack
from numpy.typing import NDArray
from scipy.special import expit, softmax

from cfmtl_lib.checks import check_count
from cfmtl_lib.errors import InputError
from cfmtl_lib.models.config import History
from cfmtl_lib.runtime.engine_log import note_engines
from cfmtl_lib.runtime.registry import storable

MOST_THREADS = 1024

CATEGORICAL, DEFAULT_LEFT, MISSING_TYPES = 1, 2, 0b1100
"""Bits of a split in LightGBM's text."""


END_OF_TREES = "\nend of trees\n"


class Loss(NamedTuple):
    """Loss of one set of rows, as functions of the logits, shape (n, m).

    Attributes
    ----------
    derivatives : callable
        Slopes and curvatures, two arrays of the shape of the logits.
    mean : callable
        Mean loss of the rows, a float.
    """

    derivatives: Callable[[NDArray], tuple[NDArray, NDArray]]
    mean: Callable[[NDArray], float]


class TreeRows(NamedTuple):
    """Rows of a fit, their loss, and whether they are held out.

    Attributes
    ----------
    x : ndarray of shape (n, p), float64
        Features; NaN is missing.
    loss : callable
        Function from a boolean mask of rows to their :class:`Loss`.
    held_out : ndarray of shape (n,), bool
        Rows by which boosting stops.
    """

    x: NDArray[np.float64]
    loss: Callable[[NDArray[np.bool_]], Loss]
    held_out: NDArray[np.bool_]


class TreeSettings(NamedTuple):
    """Settings of a fit; see :class:`~cfmtl_lib.estimators.cells.boosted_cells.BoostedConfig`."""

    learning_rate: float
    leaves: int
    rows_per_leaf: int
    l2: float
    max_rounds: int
    patience: int
    threads: int


def import_lightgbm() -> Any:
    """Import LightGBM.

    Raises
    ------
    InputError
        If it is not installed, or a library that it needs is missing.
    """
    try:
        import lightgbm
    except (ImportError, OSError) as problem:
        raise InputError(
            "lightgbm",
            expected="an installation that can be imported",
            found=f"{type(problem).__name__}: {problem}"[:200],
            advice="Install it: pip install lightgbm. It needs OpenMP (libgomp1 on Linux, libomp on macOS). "
            "Or fit networks: config=cfmtl_lib.FeatureConfig().",
        ) from problem
    return lightgbm


def fit_trees(
    rows: TreeRows, start: NDArray[np.float64], settings: TreeSettings, codes: Sequence[int], seed: int
) -> tuple[str, History]:
    """Boost trees of each logit until the loss of the rows held out no longer falls.

    Parameters
    ----------
    rows : TreeRows
    start : ndarray of shape (m,)
        Logits before the first tree.
    settings : TreeSettings
    codes : sequence of int
        Positions of columns that are codes of categories.
    seed : int

    Returns
    -------
    text, History
        Trees up to the best round in LightGBM's format, "" if there are none, and the mean losses by round.
    """
    lightgbm = import_lightgbm()
    engine = f"LightGBM {version('lightgbm')}"
    note_engines([engine])
    history = History(engine=engine)
    fitted, held_out = ~rows.held_out, rows.held_out
    if fitted.sum() < 2 * settings.rows_per_leaf or not held_out.any():
        history.converged = True  # no tree can split so few rows
        return "", history
    options = {
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.leaves,
        "min_data_in_leaf": settings.rows_per_leaf,
        "lambda_l2": settings.l2,
        "min_sum_hessian_in_leaf": 1.0,
        "num_threads": settings.threads,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbose": -1,
    }

    def data(part: NDArray[np.bool_], reference: Any = None) -> Any:
        n = int(part.sum())
        return lightgbm.Dataset(
            rows.x[part],
            label=np.zeros(n),
            init_score=np.tile(start, (n, 1)) if len(start) > 1 else np.full(n, start[0]),
            reference=reference,
            categorical_feature=list(codes),
            params=options,
        )

    train = data(fitted).construct()
    if not any(train.feature_num_bin(k) > 1 for k in range(rows.x.shape[1])):
        history.converged = True  # no column has two values with rows enough
        return "", history
    seen, unseen = rows.loss(fitted), rows.loss(held_out)

    def derivatives(scores: NDArray, _: Any) -> tuple[NDArray, NDArray]:
        history.loss.append(seen.mean(scores))
        return seen.derivatives(scores)

    def loss(scores: NDArray, _: Any) -> tuple[str, float, bool]:
        history.validation_loss.append(unseen.mean(scores))
        return "loss", history.validation_loss[-1], False

    booster = lightgbm.train(
        {**options, "objective": derivatives, "num_class": len(start)},
        train,
        settings.max_rounds,
        valid_sets=[data(held_out, train)],
        feval=loss,
        callbacks=[lightgbm.early_stopping(settings.patience, verbose=False)],
    )
    history.converged = len(history.validation_loss) < settings.max_rounds
    best = int(np.argmin(history.validation_loss)) + 1
    # Without a single tree a start that nothing improves on would be lost.
    if history.validation_loss[best - 1] >= unseen.mean(np.tile(start, (int(held_out.sum()), 1))):
        return "", history
    text = booster.model_to_string(num_iteration=best)
    return text.split(END_OF_TREES, 1)[0] + END_OF_TREES, history  # its settings stay out


@storable
class TreeAverage:
    """Several boosted models of the same probabilities, and their mean.

    Parameters
    ----------
    start : ndarray of shape (m,)
        Logits that all trees add to: one of a 0/1 target, or one for each class.
    texts : sequence of str
        Model of each fit in LightGBM's format, "" for one without trees.
    n_columns : int
        Number of columns of x.
    threads : int
        Number of threads of predictions.
    """

    def __init__(
        self, start: NDArray[np.float64], texts: Sequence[str], n_columns: int, threads: int = 1
    ) -> None:
        self.start, self.texts, self.n_columns, self.threads = start, tuple(texts), n_columns, threads
        self._boosters: list[Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_boosters": None}  # of the process that loaded them

    def to_parts(self) -> dict[str, Any]:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        written = tuple(np.frombuffer(text.encode(), dtype=np.uint8) for text in self.texts)
        sizes = {"n_columns": self.n_columns, "threads": self.threads}
        return {"start": self.start, "texts": written, "sizes": sizes}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any], device: Any) -> Self:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        start, sizes = parts["start"], parts["sizes"]
        if start.dtype != np.float64 or start.ndim != 1 or not np.isfinite(start).all() or not len(start):
            raise InputError("start", expected="finite logits", found=f"{start.dtype} of shape {start.shape}")
        texts = [bytes(text).decode("ascii") for text in parts["texts"]]
        n_columns = check_count(sizes["n_columns"], "n_columns")
        for text in texts:
            if text:
                check_text(text, n_columns, len(start))
        if not texts:
            raise InputError("texts", expected="one at least", found="none")
        return cls(start, texts, n_columns, check_count(sizes["threads"], "threads", most=MOST_THREADS))

    def predict(self, x: NDArray) -> NDArray[np.float64]:
        """Predict the probability of 1, shape (n,), or those of the classes, shape (n, m)."""
        values = np.asarray(x, dtype=np.float64)
        total = np.zeros((len(values), len(self.start)))
        if self._boosters is None:
            made = [import_lightgbm().Booster(model_str=text) if text else None for text in self.texts]
            self._boosters = made
        for booster in self._boosters:
            logits = np.tile(self.start, (len(values), 1))
            if booster is not None and len(values):
                raw = booster.predict(values, raw_score=True, num_threads=self.threads)
                logits = logits + raw.reshape(logits.shape)
            total += softmax(logits, axis=1) if len(self.start) > 1 else expit(logits)
        mean = total / len(self.texts)
        return mean if len(self.start) > 1 else mean[:, 0]


def check_text(text: str, n_columns: int, n_logits: int) -> None:
    """Check that all indices of a model in LightGBM's format lie inside it.

    Parameters
    ----------
    text : str
    n_columns : int
        Number of columns of x.
    n_logits : int
        Number of trees of a round.

    Raises
    ------
    InputError
        If they do not, or parts are missing.
    """
    blocks = text.removesuffix(END_OF_TREES) + "\n"
    begins = [match.start() for match in re.finditer(r"^Tree=\d+$", blocks, flags=re.MULTILINE)]
    ends = [*begins[1:], len(blocks)]
    sizes = {"num_class": n_logits, "num_tree_per_iteration": n_logits, "max_feature_idx": n_columns - 1}
    holds = (
        text.startswith("tree\n")
        and text.endswith(END_OF_TREES)
        and len(begins) > 0
        and len(begins) % n_logits == 0
    )
    try:
        facts = _facts(blocks[: begins[0]] if begins else "")
        holds = holds and all(int(facts[name]) == size for name, size in sizes.items())
        # LightGBM jumps by these sizes.
        expected = [end - begin for begin, end in zip(begins, ends, strict=True)]
        holds = holds and [int(size) for size in facts["tree_sizes"].split()] == expected
        trees = (_facts(blocks[begin:end]) for begin, end in zip(begins, ends, strict=True))
        holds = holds and all(_holds(tree, n_columns) for tree in trees)
    except (KeyError, ValueError):
        holds = False
    if not holds:
        raise InputError("trees", expected=f"whole trees of {n_columns} columns", found="others")


def _facts(block: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in block.splitlines() if "=" in line)


def _holds(tree: Mapping[str, str], n_columns: int) -> bool:
    """Return whether a tree has whole arrays, and children after their parents."""
    n_leaves, n_sets = int(tree["num_leaves"]), int(tree["num_cat"])
    values = np.array(tree["leaf_value"].split(), dtype=np.float64)
    if n_leaves < 1 or n_sets < 0 or len(values) != n_leaves or not np.isfinite(values).all():
        return False
    if int(tree.get("is_linear", "0")) != 0:
        return False
    if n_leaves == 1:
        return True
    names = ("split_feature", "decision_type", "left_child", "right_child")
    column, kind, left, right = (np.array(tree[name].split(), dtype=np.int64) for name in names)
    threshold = np.array(tree["threshold"].split(), dtype=np.float64)
    if any(len(part) != n_leaves - 1 for part in (column, kind, left, right, threshold)):
        return False
    own = np.arange(n_leaves - 1)
    inside = bool(((column >= 0) & (column < n_columns)).all())
    inside &= bool(((kind >= 0) & (kind <= CATEGORICAL + DEFAULT_LEFT + MISSING_TYPES)).all())
    for child in (left, right):
        inside &= bool(np.where(child >= 0, (child > own) & (child < n_leaves - 1), ~child < n_leaves).all())
    sets = threshold[(kind & CATEGORICAL) > 0]
    inside &= bool(((sets >= 0) & (sets < n_sets)).all())
    if n_sets:
        ends = np.array(tree["cat_boundaries"].split(), dtype=np.int64)
        words = np.array(tree["cat_threshold"].split(), dtype=np.int64)
        inside &= len(ends) == n_sets + 1 and ends[0] == 0 and ends[-1] == len(words)
        inside &= bool((np.diff(ends) >= 0).all() and ((words >= 0) & (words < 2**32)).all())
    return bool(inside)
