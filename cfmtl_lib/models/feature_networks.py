"""Networks on features: embeddings of categories and standardised numbers, through small hidden layers.

Numbers are replaced by their normal scores: the normal quantile of their rank among the rows of the log. So
skewed amounts need no transformation. A missing number becomes 0, the middle, with a column that marks it as
missing. A missing category is a level of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor, nn

from cfmtl_lib.checks import check_count, describe
from cfmtl_lib.errors import InputError
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.models.pair_networks import (
    ROWS_PER_PREDICTION,
    check_parameters,
    parameters_as_arrays,
    with_parameters,
)
from cfmtl_lib.runtime.registry import storable

N_KNOTS = 201
"""Number of quantiles between which a normal score is interpolated."""


@storable
@dataclass(frozen=True)
class FeatureConfig:
    """Settings of networks on features and of their fit; not from the paper, which has pairs only.

    Parameters
    ----------
    hidden : tuple of int
        Width of each hidden layer; () is a linear model.
    embedding_k : int
        Largest length of a category's embedding; a category of m levels gets at most m.
    n_networks : int
        Number of networks whose probabilities are averaged, each with its own validation set.
    fit : FitConfig
        Settings of the fit, whose loss and embedding have no effect here. Its ``validation_share`` of the
        rows (of the clusters, where there are any) is the validation set.

    Raises
    ------
    InputError
        If a value is out of range.
    """

    hidden: tuple[int, ...] = (64, 64)
    embedding_k: int = 8
    n_networks: int = 4
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(
            learning_rate=2e-3,
            weight_decay=1e-5,
            batch_size=512,
            tolerance=0.0,
            patience=8,
            patience_resets=True,
            max_epochs=200,
            keep_last_batch=True,
            validation_share=0.2,
        )
    )

    def __post_init__(self) -> None:
        put = object.__setattr__
        if not isinstance(self.hidden, tuple | list):
            raise InputError(
                "FeatureConfig.hidden", expected="a tuple of whole numbers >= 1", found=describe(self.hidden)
            )
        put(
            self,
            "hidden",
            tuple(check_count(width, "FeatureConfig.hidden", most=100_000) for width in self.hidden),
        )
        for name in ("embedding_k", "n_networks"):
            put(self, name, check_count(getattr(self, name), f"FeatureConfig.{name}", most=100_000))
        if not isinstance(self.fit, FitConfig):
            raise InputError("FeatureConfig.fit", expected="a FitConfig", found=describe(self.fit))


@storable
@dataclass(frozen=True, eq=False)
class FeatureScaler:
    """Transformation of x to (numbers, codes) for networks, learnt once from a log.

    Attributes
    ----------
    numbers, codes : tuple of int
        Columns of x that hold numbers, and codes of categories.
    levels : tuple of int
        Number of levels of each category, with the missing one.
    knots, scores : ndarray of shape (len(numbers), N_KNOTS), float64
        Quantiles of each number, and the normal score at each.
    flagged : ndarray of shape (len(numbers),), bool
        Numbers that were missing somewhere; each has a column that marks it.
    """

    numbers: tuple[int, ...]
    codes: tuple[int, ...]
    levels: tuple[int, ...]
    knots: NDArray[np.float64]
    scores: NDArray[np.float64]
    flagged: NDArray[np.bool_]

    def __post_init__(self) -> None:
        columns = [check_count(k, "column", least=0) for k in (*self.numbers, *self.codes)]
        shape = (len(self.numbers), N_KNOTS)
        holds = sorted(columns) == list(range(len(columns))) and len(self.levels) == len(self.codes)
        for array, expected, kinds in (
            (self.knots, shape, "f"),
            (self.scores, shape, "f"),
            (self.flagged, shape[:1], "b"),
        ):
            holds = holds and array.shape == expected and array.dtype.kind in kinds
        if not holds or not all(check_count(size, "levels") for size in self.levels):
            raise InputError("scaler", expected=f"{N_KNOTS} knots of each of its columns", found="others")

    @classmethod
    def learn(cls, log: IncentiveLog) -> Self:
        """Learn the transformation from the features of a log."""
        columns = () if log.encoder is None else log.encoder.columns
        codes = tuple(k for k, column in enumerate(columns) if column.kind == "category")
        numbers = tuple(k for k in range(log.x.shape[1]) if k not in codes)
        made = [_normal_scores(log.x[:, k][~np.isnan(log.x[:, k])]) for k in numbers]
        shape = (len(numbers), N_KNOTS)
        return cls(
            numbers,
            codes,
            tuple(len(columns[k].categories) + 1 for k in codes),
            np.array([knots for knots, _ in made]).reshape(shape),
            np.array([scores for _, scores in made]).reshape(shape),
            np.isnan(log.x[:, list(numbers)]).any(axis=0),
        )

    @property
    def n_numbers(self) -> int:
        """Number of columns of numbers that a network gets, flags of missing ones included."""
        return len(self.numbers) + int(self.flagged.sum())

    def split(self, x: NDArray) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return numbers of shape (n, n_numbers) and codes of shape (n, number of categories)."""
        numbers = np.empty((len(x), len(self.numbers)), dtype=np.float32)
        for row, k in enumerate(self.numbers):
            numbers[:, row] = np.interp(x[:, k], self.knots[row], self.scores[row])
        missing = np.isnan(numbers)
        numbers[missing] = 0.0
        flags = missing[:, self.flagged].astype(np.float32)
        return np.concatenate([numbers, flags], axis=1), x[:, list(self.codes)].astype(np.int64)


def _normal_scores(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute knots and their scores, of mean 0 and variance 1; ties get the mean of their scores."""
    probability = np.linspace(0, 1, N_KNOTS)
    if not len(values):  # a part of a log can lack all values of a column
        return probability, np.zeros(N_KNOTS)
    knots = np.quantile(values, probability)
    # Beyond the outermost knots the score stays what it is there, near 2.8.
    raw = special.ndtri(probability.clip(0.5 / N_KNOTS, 1 - 0.5 / N_KNOTS))
    member = np.unique(knots, return_inverse=True)[1]
    scores = (np.bincount(member, weights=raw) / np.bincount(member))[member]
    seen = np.interp(values, knots, scores)
    spread = seen.std()
    return knots, (scores - seen.mean()) / (spread if spread > 0 else 1.0)


@storable
class FeatureNetwork(nn.Module):
    """Network from embeddings and numbers through hidden layers to one logit, or to several.

    Parameters
    ----------
    n_numbers : int
    levels : tuple of int
        Number of levels of each category.
    n_outputs : int
    config : FeatureConfig
    generator : torch.Generator
        Source of the initial values; they are created on its device.
    """

    def __init__(
        self,
        n_numbers: int,
        levels: tuple[int, ...],
        n_outputs: int = 1,
        *,
        config: FeatureConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.n_numbers, self.levels, self.n_outputs, self.config = n_numbers, levels, n_outputs, config
        sizes, widths = _widths(n_numbers, levels, config)

        def table(*shape: int, sd: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator, device=generator.device) * sd)

        self.embeddings = nn.ParameterList([table(m, k, sd=0.3) for m, k in zip(levels, sizes, strict=True)])
        self.weights = nn.ParameterList(
            [table(after, before, sd=math.sqrt(2 / before)) for before, after in pairwise(widths)]
        )
        self.biases = nn.ParameterList(
            [nn.Parameter(torch.zeros(after, device=generator.device)) for after in widths[1:]]
        )
        self.head = table(n_outputs, widths[-1], sd=0.1 / math.sqrt(widths[-1]))
        self.head_bias = nn.Parameter(torch.zeros(n_outputs, device=generator.device))

    def to_parts(self) -> dict[str, Any]:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        sizes = {"n_numbers": self.n_numbers, "levels": self.levels, "n_outputs": self.n_outputs}
        return {"sizes": sizes, "config": self.config, "parameters": parameters_as_arrays(self)}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any], device: torch.device) -> Self:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        sizes, config = parts["sizes"], parts["config"]
        if not isinstance(config, FeatureConfig):
            raise InputError("config", expected="a FeatureConfig", found=type(config).__name__)
        n_numbers = check_count(sizes["n_numbers"], "size n_numbers", least=0)
        levels = tuple(check_count(size, "size levels") for size in sizes["levels"])
        n_outputs = check_count(sizes["n_outputs"], "size n_outputs")
        embedded, widths = _widths(n_numbers, levels, config)
        shapes: dict[str, tuple[int, ...]] = {"head": (n_outputs, widths[-1]), "head_bias": (n_outputs,)}
        shapes |= {f"embeddings.{k}": pair for k, pair in enumerate(zip(levels, embedded, strict=True))}
        for k, (before, after) in enumerate(pairwise(widths)):
            shapes |= {f"weights.{k}": (after, before), f"biases.{k}": (after,)}
        check_parameters(parts["parameters"], shapes)  # before there is memory for them
        generator = torch.Generator(device=device)
        network = cls(n_numbers, levels, n_outputs, config=config, generator=generator)
        return with_parameters(network, parts["parameters"])

    def body(self) -> list[nn.Parameter]:
        """Return all parameters below the head."""
        return [*self.embeddings, *self.weights, *self.biases]

    def take_body(self, other: FeatureNetwork) -> None:
        """Copy all parameters below the head from a network of the same configuration."""
        with torch.no_grad():
            for mine, theirs in zip(self.body(), other.body(), strict=True):
                mine.copy_(theirs)

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:
        """Compute logits of shape (n,), or (n_outputs, n) where there are several."""
        columns = [numbers]
        for k, embedding in enumerate(self.embeddings):
            columns.append(embedding.index_select(0, codes[:, k]))
        hidden = torch.cat(columns, dim=1)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            hidden = torch.relu(nn.functional.linear(hidden, weight, bias))
        logits = nn.functional.linear(hidden, self.head, self.head_bias)
        return logits[:, 0] if len(self.head_bias) == 1 else logits.T


def _widths(n_numbers: int, levels: Sequence[int], config: FeatureConfig) -> tuple[list[int], list[int]]:
    """Return the length of each category's embedding, and the widths of all layers from the first."""
    sizes = [min(config.embedding_k, m) for m in levels]
    return sizes, [n_numbers + sum(sizes), *config.hidden]


def feature_columns(scaler: FeatureScaler, x: NDArray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return numbers and codes of rows, on a device."""
    numbers, codes = scaler.split(x)
    return torch.tensor(numbers, device=device), torch.tensor(codes, device=device)


def predict_features(
    networks: Sequence[FeatureNetwork], scaler: FeatureScaler, x: NDArray
) -> NDArray[np.float64]:
    """Average the sigmoid (one logit) or softmax (several) of networks at rows of features.

    Parameters
    ----------
    networks : sequence of FeatureNetwork
    scaler : FeatureScaler
    x : ndarray of shape (n, p), float

    Returns
    -------
    ndarray of shape (n,) or (n, n_outputs), float64
        Probabilities; rows of several outputs sum to 1 within 1e-12.
    """
    device = networks[0].head.device
    parts = []
    with torch.no_grad():
        for start in range(0, len(x), ROWS_PER_PREDICTION):
            columns = feature_columns(scaler, x[start : start + ROWS_PER_PREDICTION], device)
            probabilities = [_probability(network(*columns)) for network in networks]
            parts.append(torch.stack(probabilities).mean(0))
    return torch.cat(parts).numpy()


def _probability(logits: Tensor) -> Tensor:
    logits = logits.cpu().double()  # float64 after the copy: not every accelerator has it
    return torch.sigmoid(logits) if logits.ndim == 1 else torch.softmax(logits, dim=0).T
