"""Registry of estimators, which enter by being subclassed, and of parts of models, by a decorator.

Code that works on all estimators or all parts (tables of methods, saved models) reads this registry and has
no list of its own. So it treats classes outside the package as it treats those of the library.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

LIBRARY = __name__.split(".")[0]

Kind = TypeVar("Kind", bound=type)


@runtime_checkable
class Part(Protocol):
    """Part of a fitted model that can be taken apart and rebuilt."""

    def to_parts(self) -> dict[str, Any]:
        """Return what :meth:`from_parts` needs: plain values, arrays, configurations, other parts."""
        ...

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any], device: Any) -> Self:
        """Rebuild the part.

        Parameters
        ----------
        parts : mapping
            Result of :meth:`to_parts`.
        device : torch.device
            Device of its networks.
        """
        ...


ESTIMATORS: dict[str, Any] = {}
"""Every estimator class by its key (:func:`key_of`), in the order of definition."""

STORABLE: dict[str, type] = {}
"""Every class that :func:`storable` marked, by its key."""


def key_of(kind: type) -> str:
    """Return the key of a class: its name, with its module if the class is not of this library.

    Examples
    --------
    >>> key_of(dict)
    'builtins.dict'
    """
    if kind.__module__.split(".")[0] == LIBRARY:
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def storable(kind: Kind) -> Kind:
    """Mark a class as a part of saved models: a dataclass, or one with the methods of :class:`Part`."""
    STORABLE[key_of(kind)] = kind
    return kind
