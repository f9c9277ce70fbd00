"""What fitted models are made of, as arrays and as JSON, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any
from zipfile import ZIP_DEFLATED

import numpy as np
import skops.io
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from torch import nn

from cfmtl_lib.errors import ModelFileError
from cfmtl_lib.estimators.baselines import MomentEstimator
from cfmtl_lib.estimators.cfmtl import CFMTL
from cfmtl_lib.estimators.cfmtl_features import FeatureCells
from cfmtl_lib.models.config import History
from cfmtl_lib.models.feature_networks import FeatureNetwork, FeatureScaler
from cfmtl_lib.models.losses import CellNetwork
from cfmtl_lib.models.pair_networks import AdditiveNetwork, FactorizationNetwork, PairNetwork
from cfmtl_lib.nuisances.feature_nuisances import FittedMean
from cfmtl_lib.nuisances.pair_classifier import PairClassifier

TRUSTED = (
    "functools.partial",
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    "sklearn.utils.validation.check_array",
)
"""Types of scikit-learn's own learners that skops does not trust by itself. A partial is trusted as a
container: what it calls is looked at as well."""

Arrays = dict[str, NDArray]


class ArrayStore:
    """Named arrays on their way into a file or out of it.

    Parameters
    ----------
    arrays : dict of str to ndarray
    """

    def __init__(self, arrays: Arrays | None = None) -> None:
        self.arrays: Arrays = {} if arrays is None else arrays

    def put(self, name: str, module: nn.Module) -> None:
        """Keep the parameters of a network."""
        for key, value in module.state_dict().items():
            self.arrays[f"{name}/{key}"] = value.detach().cpu().numpy()

    def fill(self, name: str, module: nn.Module) -> None:
        """Set the parameters of a network to those kept.

        Raises
        ------
        ModelFileError
            If one is missing or has another shape.
        """
        state = {}
        for key, value in module.state_dict().items():
            stored = self.take(f"{name}/{key}")
            if stored.shape != tuple(value.shape):
                raise ModelFileError(
                    f"{name}/{key}", expected=f"shape {tuple(value.shape)}", found=f"{stored.shape}"
                )
            state[key] = torch.tensor(stored, dtype=value.dtype, device=value.device)
        module.load_state_dict(state)

    def take(self, name: str) -> NDArray:
        """One array."""
        if name not in self.arrays:
            raise ModelFileError("file", expected=f"the array {name!r}", found="none")
        return self.arrays[name]

    def put_learner(self, name: str, learner: BaseEstimator) -> None:
        """Keep a scikit-learn learner, fitted or not, as skops writes it.

        Raises
        ------
        ModelFileError
            If it is of a type that :func:`take_learner` would refuse.
        """
        written = skops.io.dumps(learner, compression=ZIP_DEFLATED)
        _refuse_untrusted(written, type(learner).__name__)
        self.arrays[name] = np.frombuffer(written, dtype=np.uint8)

    def take_learner(self, name: str) -> BaseEstimator:
        """A learner as :meth:`put_learner` kept it.

        Raises
        ------
        ModelFileError
            If the file asks for a type beyond those that skops trusts and :data:`TRUSTED`.
        """
        written = self.take(name).tobytes()
        _refuse_untrusted(written, name)
        return skops.io.loads(written, trusted=list(TRUSTED))


def _refuse_untrusted(written: bytes, subject: str) -> None:
    strange = sorted(set(skops.io.get_untrusted_types(data=written)) - set(TRUSTED))
    if strange:
        raise ModelFileError(
            subject,
            expected="learners made of scikit-learn's own parts",
            found=", ".join(strange),
            advice="Other types could run code when they are loaded.",
        )


def describe(model: CFMTL | MomentEstimator, store: ArrayStore) -> dict[str, Any]:
    """What a fitted model learnt: arrays into the store, the rest as JSON can hold it."""
    if isinstance(model, MomentEstimator):
        return {"moments": {name: _describe_moment(name, m, store) for name, m in model.moments_.items()}}
    histories = {name: asdict(history) for name, history in model.histories_.items()}
    network = model.network_
    if isinstance(network, CellNetwork):
        pair = {
            part: _describe_pairs(part, network.pair_network(part), store)
            for part in ("strata", "propensity")
        }
        return {"pairs": pair, "histories": histories}
    scaler = network.scaler
    for name in ("knots", "scores", "flagged"):
        store.arrays[f"scaler/{name}"] = getattr(scaler, name)
    for k, cells in enumerate(network.networks):
        for part in ("strata", "propensity"):
            store.put(f"{part} {k}", getattr(cells, part))
    columns = {"numbers": scaler.numbers, "codes": scaler.codes, "levels": scaler.levels}
    return {"features": columns | {"n_networks": len(network.networks)}, "histories": histories}


def restore(
    model: CFMTL | MomentEstimator, learnt: Mapping[str, Any], store: ArrayStore, device: torch.device
) -> None:
    """Give an unfitted model what :func:`describe` took from a fitted one."""
    if isinstance(model, MomentEstimator):
        model.moments_ = {
            name: _moment(name, stored, store, device) for name, stored in learnt["moments"].items()
        }
        return
    model.histories_ = {name: History(**stored) for name, stored in learnt["histories"].items()}

    def cells(make: Callable[[str], Any]) -> CellNetwork:
        return CellNetwork(
            make("strata"),
            make("propensity"),
            weights=model.weights,
            propensity_floor=model.propensity_floor,
            propensity_weight=model.propensity_weight,
        )

    if "pairs" in learnt:
        model.network_ = cells(lambda part: _pairs(part, learnt["pairs"][part], store, device))
        return
    stored = learnt["features"]
    columns = {name: tuple(int(k) for k in stored[name]) for name in ("numbers", "codes", "levels")}
    scaler = FeatureScaler(
        **columns,
        knots=store.take("scaler/knots"),
        scores=store.take("scaler/scores"),
        flagged=store.take("scaler/flagged"),
    )

    def network(k: int, part: str) -> FeatureNetwork:
        made = FeatureNetwork(
            scaler.n_numbers,
            scaler.levels,
            5 if part == "strata" else 1,
            config=model.feature_config,
            generator=torch.Generator(device=device),
        )
        store.fill(f"{part} {k}", made)
        return made

    numbered = [partial(network, k) for k in range(int(stored["n_networks"]))]
    model.network_ = FeatureCells(scaler, [cells(make) for make in numbered])


def _describe_moment(name: str, moment: PairNetwork | FittedMean, store: ArrayStore) -> dict[str, Any]:
    if isinstance(moment, FittedMean):
        if moment.learner is None:
            return {"kind": "constant", "value": moment.constant}
        if not isinstance(moment.learner, PairClassifier):
            store.put_learner(name, moment.learner)
            return {"kind": "learner"}
        return _describe_pairs(name, moment.learner.network_, store)
    return _describe_pairs(name, moment, store)


def _moment(name: str, stored: Mapping[str, Any], store: ArrayStore, device: torch.device) -> Any:
    if stored["kind"] == "constant":
        return FittedMean(None, float(stored["value"]))
    if stored["kind"] == "learner":
        return FittedMean(store.take_learner(name))
    return _pairs(name, stored, store, device)


def _describe_pairs(name: str, network: PairNetwork, store: ArrayStore) -> dict[str, Any]:
    store.put(name, network)
    sizes = {"n_users": network.n_users, "n_items": network.n_items, "embedding_k": network.embedding_k}
    if isinstance(network, AdditiveNetwork):
        return {"kind": "additive", **sizes, "n_outputs": len(network.bias)}
    return {"kind": "factorization", **sizes}


def _pairs(name: str, stored: Mapping[str, Any], store: ArrayStore, device: torch.device) -> Any:
    kinds = {"additive": AdditiveNetwork, "factorization": FactorizationNetwork}
    sizes = {key: int(value) for key, value in stored.items() if key != "kind"}
    network = kinds[stored["kind"]](**sizes, generator=torch.Generator(device=device))
    store.fill(name, network)
    return network
