"""What enters the library by itself: estimators by being subclassed, parts of models by a decorator.

Whatever works on all estimators or all parts (tables of methods, saved models) asks here and keeps no list
of its own. So a class outside the package has what the library's own classes have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

LIBRARY = __name__.split(".")[0]

Kind = TypeVar("Kind", bound=type)


@runtime_checkable
class Part(Protocol):
    """A part of a fitted model that says itself what it is made of."""

    def to_parts(self) -> dict[str, Any]:
        """Return all that :meth:`from_parts` needs: plain values, arrays, configurations and other parts."""
        ...

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any], device: Any) -> Self:
        """Make the part again.

        Parameters
        ----------
        parts : mapping
            From :meth:`to_parts`.
        device : torch.device
            Where its networks go.
        """
        ...


ESTIMATORS: dict[str, Any] = {}
"""Every estimator class by its key (:func:`key_of`), in the order of definition."""

STORABLE: dict[str, type] = {}
"""Every class that :func:`storable` marked, by its key."""


def key_of(kind: type) -> str:
    """Return the name by which a class is found again: with its module, if it is not of this library.

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
