"""Encoding of values as JSON and arrays, and decoding without running anything that the file names."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cfmtl_lib.errors import ModelFileError
from cfmtl_lib.runtime.registry import STORABLE, Part, key_of


class ValueEncoder:
    """Encoder of values as JSON, which collects their arrays by name.

    Attributes
    ----------
    arrays : dict of str to ndarray
        Arrays of all encoded values, by name.

    Examples
    --------
    >>> encoder = ValueEncoder()
    >>> encoder.value([1, np.zeros(2)], "pair")
    {'kind': 'list', 'items': [1, {'kind': 'array', 'name': 'pair/1'}]}
    >>> list(encoder.arrays)
    ['pair/1']
    """

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray] = {}

    def value(self, value: Any, name: str) -> Any:
        """Encode one value; ``name`` is its path in errors and the name of its array.

        Raises
        ------
        ModelFileError
            If it could not be made again without running code from the file.
        """
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
        return self.other(value, name)

    def other(self, value: Any, name: str) -> Any:
        """Encode a value of a kind that is not known here."""
        raise ModelFileError(
            name,
            expected="numbers, text, arrays, learners of scikit-learn, parts marked by @storable, or "
            "lists and dictionaries (by text) of these",
            found=type(value).__name__,
            advice="Mark its class by cfmtl_lib.storable, or name it in not_saved.",
        )


class ValueDecoder:
    """Makes values again from what :class:`ValueEncoder` gave.

    Parameters
    ----------
    arrays : mapping of str to ndarray
    device : torch.device
        Device of the networks.
    """

    def __init__(self, arrays: Mapping[str, NDArray], device: torch.device) -> None:
        self.arrays, self.device = arrays, device

    def value(self, stored: Any) -> Any:
        """Decode one value.

        Raises
        ------
        ModelFileError
            If its kind or class is not known, or a part is missing, of another shape or of another kind.
        """
        if stored is None or isinstance(stored, bool | int | float | str):
            return stored
        if not isinstance(stored, Mapping):
            raise ModelFileError("file", expected="an encoded value", found=type(stored).__name__)
        kind = stored["kind"]
        if kind in ("tuple", "list"):
            items = [self.value(item) for item in stored["items"]]
            return tuple(items) if kind == "tuple" else items
        if kind == "dict":
            return {key: self.value(v) for key, v in stored["items"].items()}
        if kind == "float":
            return float(stored["value"])
        if kind == "array":
            return self.array(stored["name"])
        if kind == "part":
            return self._part(stored)
        return self.other(stored)

    def other(self, stored: Mapping[str, Any]) -> Any:
        """Decode a value of a kind that is not known here."""
        raise ModelFileError("file", expected="a known kind of value", found=repr(stored["kind"]))

    def array(self, name: str) -> NDArray:
        """Return an array of the file.

        Raises
        ------
        ModelFileError
            If there is none of this name.
        """
        if not isinstance(name, str) or name not in self.arrays:
            raise ModelFileError("file", expected=f"the array {name!r}", found="none")
        return self.arrays[name]

    def _part(self, stored: Mapping[str, Any]) -> Any:
        made = known_class(STORABLE, stored["class"])
        parts = {key: self.value(v) for key, v in stored["parts"].items()}
        try:
            return made.from_parts(parts, self.device) if issubclass(made, Part) else made(**parts)
        except ModelFileError:
            raise
        except Exception as error:  # of whatever kind: the values are not trusted
            raise ModelFileError(
                stored["class"],
                expected="the parts of this class",
                found=f"{error}"[:300],
                advice="It was written by another version of the library: use that one.",
            ) from error


def known_class(registry: Mapping[str, type], key: str) -> Any:
    """Return a registered class.

    Raises
    ------
    ModelFileError
        If no class has this key.
    """
    if not isinstance(key, str) or key not in registry:
        raise ModelFileError(
            f"class {key}",
            expected="a class of this library, or one whose module is imported",
            found="no such class",
            advice="Import the module that defines it, then load the model.",
        )
    return registry[key]


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
