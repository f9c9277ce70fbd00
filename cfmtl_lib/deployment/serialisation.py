"""Encoding of fitted models as arrays and JSON, and decoding."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any
from zipfile import ZIP_DEFLATED

import numpy as np
import skops.io
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from cfmtl_lib.errors import InputError, ModelFileError
from cfmtl_lib.estimators.base import LogEstimator
from cfmtl_lib.logs.schema import InputSchema
from cfmtl_lib.runtime.devices import resolve_device
from cfmtl_lib.runtime.registry import ESTIMATORS, STORABLE, Part, key_of

TRUSTED = (
    "functools.partial",
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    "sklearn.utils.validation.check_array",
)
"""Types of scikit-learn's own learners that skops does not trust by itself. A partial is trusted as a
container: what it calls is checked as well."""

FROM_SCHEMA = ("schema_", "n_features_in_", "feature_names_in_")
"""Fitted attributes that the schema of x implies."""


class Encoder:
    """Encoder of values as JSON, which collects their arrays by name.

    Attributes
    ----------
    arrays : dict of str to ndarray
        Arrays of all encoded values, by name.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray] = {}

    def estimator(self, model: LogEstimator, name: str = "") -> dict[str, Any]:
        """Encode an estimator: class, parameters, schema of x, and the attributes that end in _.

        Raises
        ------
        ModelFileError
            If it holds something that cannot be made again without running code from the file.
        """
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

    def value(self, value: Any, name: str) -> Any:
        """Encode one value; ``name`` is its path in errors and the name of its array."""
        kind = type(value)
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float) and not math.isfinite(value):  # which JSON does not have
            return {"kind": "float", "value": str(value)}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, torch.device):
            return str(value)
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "biuf":
                raise ModelFileError(name, expected="an array of numbers", found=f"dtype {value.dtype}")
            self.arrays[name] = value
            return {"kind": "array", "name": name}
        if STORABLE.get(key_of(kind)) is kind:
            parts = value.to_parts() if isinstance(value, Part) else _fields(value)
            encoded = {key: self.value(v, f"{name}/{key}") for key, v in parts.items()}
            return {"kind": "part", "class": key_of(kind), "parts": encoded}
        if isinstance(value, tuple | list):
            items = [self.value(item, f"{name}/{k}") for k, item in enumerate(value)]
            return {"kind": "tuple" if isinstance(value, tuple) else "list", "items": items}
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {"kind": "dict", "items": {k: self.value(v, f"{name}/{k}") for k, v in value.items()}}
        if isinstance(value, LogEstimator):
            return {"kind": "estimator", "estimator": self.estimator(value, name)}
        if isinstance(value, BaseEstimator):
            written = skops.io.dumps(value, compression=ZIP_DEFLATED)
            _refuse_untrusted(written, kind.__name__)
            self.arrays[name] = np.frombuffer(written, dtype=np.uint8)
            return {"kind": "learner", "name": name}
        raise ModelFileError(
            name,
            expected="numbers, text, arrays, learners of scikit-learn, parts marked by @storable, or "
            "lists and dictionaries (by text) of these",
            found=kind.__name__,
            advice="Mark its class by cfmtl_lib.storable, or name it in not_saved.",
        )


class Decoder:
    """Makes values again from what :class:`Encoder` gave.

    Parameters
    ----------
    arrays : mapping of str to ndarray
    device : str
        Device of the networks, and of estimators that have such a parameter.
    """

    def __init__(self, arrays: Mapping[str, NDArray], device: str) -> None:
        self.arrays, self.device, self._device_parameter = arrays, resolve_device(device), device

    def estimator(self, stored: Mapping[str, Any]) -> LogEstimator:
        """Make an estimator again.

        Raises
        ------
        ModelFileError
            If its class is unknown, or a part is missing, of another shape or of another kind.
        """
        kind = _known(ESTIMATORS, stored["class"])
        parameters = {key: self.value(v) for key, v in stored["parameters"].items()}
        if "device" in parameters:
            parameters["device"] = self._device_parameter
        model = kind(**parameters)
        if stored["schema"] is not None:
            model.remember_schema(InputSchema.from_dict(stored["schema"]))
        for key, value in stored["learnt"].items():
            if not key.endswith("_") or key.startswith("_") or hasattr(kind, key):
                raise ModelFileError("file", expected="names of fitted attributes", found=repr(key))
            setattr(model, key, self.value(value))
        return model

    def value(self, stored: Any) -> Any:
        """Decode one value."""
        if not isinstance(stored, Mapping):
            return stored
        kind = stored["kind"]
        if kind in ("tuple", "list"):
            items = [self.value(item) for item in stored["items"]]
            return tuple(items) if kind == "tuple" else items
        if kind == "dict":
            return {key: self.value(v) for key, v in stored["items"].items()}
        if kind == "float":
            return float(stored["value"])
        if kind == "array":
            return self._array(stored["name"])
        if kind == "part":
            made = _known(STORABLE, stored["class"])
            parts = {key: self.value(v) for key, v in stored["parts"].items()}
            try:
                return made.from_parts(parts, self.device) if issubclass(made, Part) else made(**parts)
            except (InputError, TypeError, KeyError, AttributeError) as error:
                raise ModelFileError(
                    stored["class"],
                    expected="the parts of this class",
                    found=str(error),
                    advice="It was written by another version of the library: use that one.",
                ) from error
        if kind == "estimator":
            return self.estimator(stored["estimator"])
        if kind == "learner":
            written = self._array(stored["name"]).tobytes()
            _refuse_untrusted(written, stored["name"])
            return skops.io.loads(written, trusted=list(TRUSTED))
        raise ModelFileError("file", expected="a known kind of value", found=repr(kind))

    def _array(self, name: str) -> NDArray:
        if name not in self.arrays:
            raise ModelFileError("file", expected=f"the array {name!r}", found="none")
        return self.arrays[name]


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _known(registry: Mapping[str, type], key: str) -> Any:
    if key not in registry:
        raise ModelFileError(
            f"class {key}",
            expected="a class of this library, or one whose module is imported",
            found="no such class",
            advice="Import the module that defines it, then load the model.",
        )
    return registry[key]


def _refuse_untrusted(written: bytes, subject: str) -> None:
    strange = sorted(set(skops.io.get_untrusted_types(data=written)) - set(TRUSTED))
    if strange:
        raise ModelFileError(
            subject,
            expected="learners made of scikit-learn's own parts",
            found=", ".join(strange),
            advice="Other types could run code when they are loaded.",
        )
