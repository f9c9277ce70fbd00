"""Sources of the batches of an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class RowSource(Protocol):
    """Source of rows in a new random order each epoch."""

    def __len__(self) -> int:
        """Count the rows of an epoch, before an incomplete last batch is dropped."""
        ...

    def epoch(
        self, batch_size: int, keep_last_batch: bool, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield chunks of all columns, on the device of the generator.

        A chunk is a whole number of batches; only the last one may end in a smaller batch.
        """
        ...


class InMemory:
    """Source of rows that are on the device as a whole.

    Parameters
    ----------
    columns : sequence of Tensor, each of shape (n, ...)
    """

    def __init__(self, columns: Sequence[Tensor]) -> None:
        self.columns = columns
        self._order: Tensor | None = None
        self._laid_out: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.columns[0])

    def epoch(
        self, batch_size: int, keep_last_batch: bool, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield one chunk, whose batches are views; the next epoch overwrites it."""
        n = len(self)
        n_used = n if keep_last_batch else n // batch_size * batch_size
        # Written into again and again: new memory for each epoch takes twice the time.
        if self._order is None or len(self._laid_out[0]) != n_used:
            self._order = torch.empty(n, dtype=torch.int64, device=generator.device)
            self._laid_out = [column.new_empty((n_used, *column.shape[1:])) for column in self.columns]
        torch.randperm(n, generator=generator, out=self._order, device=generator.device)
        for column, laid_out in zip(self.columns, self._laid_out, strict=True):
            torch.index_select(column, 0, self._order[:n_used], out=laid_out)
        yield tuple(self._laid_out)
