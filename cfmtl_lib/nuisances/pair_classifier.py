"""Networks on user-item pairs as a scikit-learn classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from cfmtl_lib.checks import check_count, check_seed, describe
from cfmtl_lib.errors import InputError, check_choice, refuse_rows
from cfmtl_lib.logs.alignment import as_array
from cfmtl_lib.logs.validation import check_pairs, checked_x
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.models.pair_networks import AdditiveNetwork, FactorizationNetwork, predict_probability
from cfmtl_lib.models.training import derive_generator, fit_probability, new_network
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.devices import resolve_device
from cfmtl_lib.runtime.registry import storable

NETWORKS = {"additive": AdditiveNetwork, "factorization": FactorizationNetwork}


@storable
class PairClassifier(ClassifierMixin, BaseEstimator):
    """Classifier of user-item pairs by one of the paper's two networks.

    Parameters
    ----------
    network : {"additive", "factorization"}
        The paper's "NCF", which has no interaction of user and item, or matrix factorisation.
    pair_space : (int, int), optional
        Number of users and of items. If left out, the largest ids of ``fit`` plus one;
        :func:`~cfmtl_lib.nuisances.cross_fitting.crossfit` fills in those of its log.
    config : FitConfig
    device : str
    seed : int

    Attributes
    ----------
    network_ : AdditiveNetwork or FactorizationNetwork
    history_ : History
    classes_ : ndarray of shape (2,)
        0 and 1.

    Examples
    --------
    >>> x = [[0, 0], [0, 1], [1, 0], [1, 1]] * 25
    >>> model = PairClassifier(config=FitConfig(embedding_k=4, tolerance=0.01)).fit(x, [1, 1, 0, 0] * 25)
    >>> (model.predict_proba(x[:4])[:, 1] > 0.5).tolist()
    [True, True, False, False]
    """

    def __init__(
        self,
        network: str = "additive",
        *,
        pair_space: tuple[int, int] | None = None,
        config: FitConfig = PAPER.nuisance,
        device: str = "auto",
        seed: int = 0,
    ) -> None:
        self.network = network
        self.pair_space = pair_space
        self.config = config
        self.device = device
        self.seed = seed

    def to_parts(self) -> dict[str, Any]:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        fitted = {name: getattr(self, name) for name in ("network_", "classes_") if hasattr(self, name)}
        return {"parameters": self.get_params(deep=False), "fitted": fitted}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any], device: torch.device) -> Self:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        model = cls(**parts["parameters"])
        fitted = parts["fitted"]
        if fitted and not (
            isinstance(fitted["network_"], tuple(NETWORKS.values()))
            and np.array_equal(fitted["classes_"], [0, 1])
        ):
            raise InputError("fitted", expected="a network of pairs and the classes 0 and 1", found="others")
        for name in fitted and ("network_", "classes_"):
            setattr(model, name, fitted[name])
        return model

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit the network to targets 0/1.

        Parameters
        ----------
        X : array_like of shape (n, 2), integer
            User and item ids.
        y : array_like of shape (n,), 0/1

        Raises
        ------
        UnknownNameError, InputError
            If the network is unknown, or a target is not 0/1.
        LogError
            If an id lies outside ``pair_space``.
        """
        kind = NETWORKS[check_choice("network", self.network, NETWORKS)]
        if not isinstance(self.config, FitConfig):
            raise InputError("config", expected="a FitConfig", found=describe(self.config))
        check_seed(self.seed)
        ids = checked_x(X, pairs=True)[0]
        if self.pair_space is None:
            n_users, n_items = (int(column.max()) + 1 for column in ids.T)
        elif isinstance(self.pair_space, tuple | list) and len(self.pair_space) == 2:
            n_users, n_items = (check_count(size, "pair_space") for size in self.pair_space)
        else:
            raise InputError("pair_space", expected="two counts", found=describe(self.pair_space))
        pairs = check_pairs(ids, n_users, n_items)
        target = as_array("y", y)
        if target.shape != (len(pairs),):
            raise InputError("y", expected=f"shape ({len(pairs)},)", found=f"shape {target.shape}")
        refuse_rows("y", ~np.isin(target, (0, 1)), expected="0/1", found=target)
        device = resolve_device(self.device)
        generator = derive_generator(self.seed, f"{self.network} classifier", device)
        network = new_network(kind, (n_users, n_items), self.config, generator=generator)
        user, item = (torch.tensor(column, device=device) for column in pairs.T)
        self.history_ = fit_probability(
            network,
            (user, item, torch.tensor(target.astype(np.float32), device=device)),
            self.config,
            generator=generator,
            label=f"{self.network} classifier",
        )
        self.network_ = network
        self.classes_ = np.array([0, 1])
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Predict the probabilities of 0 and of 1, shape (n, 2)."""
        check_is_fitted(self, "network_")
        one = predict_probability(self.network_, X)
        return np.stack([1 - one, one], axis=1)

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Predict the likelier class, shape (n,)."""
        return (self.predict_proba(X)[:, 1] > 0.5).astype(np.int64)
