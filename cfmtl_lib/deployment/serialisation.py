"""Encoding of fitted models as arrays and JSON, and decoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from cfmtl_lib.deployment.learner_files import learner_from_bytes, learner_to_bytes
from cfmtl_lib.deployment.trial import check_cells, check_schema
from cfmtl_lib.errors import ModelFileError
from cfmtl_lib.estimators.base import LogEstimator
from cfmtl_lib.logs.schema import InputSchema
from cfmtl_lib.runtime.devices import resolve_device
from cfmtl_lib.runtime.registry import ESTIMATORS, key_of
from cfmtl_lib.runtime.values import ValueDecoder, ValueEncoder, known_class

FROM_SCHEMA = ("schema_", "n_features_in_", "feature_names_in_", "training_rows_")
"""Fitted attributes that the schema of x implies, or that stay with the process that fitted."""


class Encoder(ValueEncoder):
    """Encoder of estimators and of what they hold."""

    def estimator(self, model: LogEstimator, name: str = "") -> dict[str, Any]:
        """Encode an estimator: class, parameters, schema of x, and the attributes that end in _.

        Raises
        ------
        ModelFileError
            If it holds something that cannot be made again without running code from the file.
        """
        if model.cannot_be_saved:
            raise ModelFileError(
                name or "model",
                expected="parts that can be made again without running code from the file",
                found=f"{type(model).__name__} with {model.cannot_be_saved}",
                advice="Keep its settings and the log: a fit with the same seed gives the same model.",
            )
        learnt = {
            key: value
            for key, value in vars(model).items()
            if key.endswith("_") and key not in (*FROM_SCHEMA, *model.not_saved)
        }
        path = f"{name}/" if name else ""
        return {
            "class": key_of(type(model)),
            "parameters": {
                key: self.value(v, f"{path}parameter/{key}")
                for key, v in model.get_params(deep=False).items()
            },
            "schema": model.schema_.to_dict() if hasattr(model, "schema_") else None,  # unfitted: none
            "learnt": {key: self.value(v, f"{path}{key}") for key, v in learnt.items()},
        }

    def other(self, value: Any, name: str) -> Any:
        """Encode an estimator, or a learner of scikit-learn."""
        if isinstance(value, LogEstimator):
            return {"kind": "estimator", "estimator": self.estimator(value, name)}
        if isinstance(value, BaseEstimator):
            self.arrays[name] = np.frombuffer(learner_to_bytes(value), dtype=np.uint8)
            return {"kind": "learner", "name": name}
        return super().other(value, name)


class Decoder(ValueDecoder):
    """Makes estimators again from what :class:`Encoder` gave.

    Parameters
    ----------
    arrays : mapping of str to ndarray
    device : str
        Device of the networks, and of estimators that have such a parameter.
    """

    def __init__(self, arrays: Mapping[str, NDArray], device: str) -> None:
        super().__init__(arrays, resolve_device(device))
        self._device_parameter = device

    def estimator(self, stored: Mapping[str, Any]) -> LogEstimator:
        """Make an estimator again.

        Raises
        ------
        ModelFileError
            If its class is unknown, or a part is missing, of another shape or of another kind.
        """
        kind = known_class(ESTIMATORS, stored["class"])
        parameters = {key: self.value(v) for key, v in stored["parameters"].items()}
        if "device" in parameters:
            parameters["device"] = self._device_parameter
        model = kind(**parameters)
        if stored["schema"] is not None:
            schema = InputSchema.from_dict(stored["schema"])
            check_schema(schema)
            model.remember_schema(schema)
        for key, value in stored["learnt"].items():
            if not key.endswith("_") or key.startswith("_") or hasattr(kind, key):
                raise ModelFileError("file", expected="names of fitted attributes", found=repr(key))
            setattr(model, key, self.value(value))
        check_cells(model)
        return model

    def other(self, stored: Mapping[str, Any]) -> Any:
        """Decode an estimator, or a learner of scikit-learn."""
        if stored["kind"] == "estimator":
            return self.estimator(stored["estimator"])
        if stored["kind"] == "learner":
            return learner_from_bytes(self.array(stored["name"]).tobytes(), stored["name"])
        return super().other(stored)
