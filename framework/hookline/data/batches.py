"""How the samples of a dataset become a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import StackDataset, Subset, TensorDataset, default_collate

from hookline.nesting import map_tensors

__all__ = ["MakeBatch", "MapDataset", "batch_maker", "pinned"]

MakeBatch = Callable[[Tensor], Any]
"""Returns the batch of the samples at the given indices, which are int64 and on the CPU."""


class MapDataset(Protocol):
    """What a `Loader` needs of a dataset: a length, and a sample for every index below it.

    A batch is made by the first of these that the dataset has:

    1. ``get_batch(indices)``: takes the indices as an int64 tensor and returns the finished batch. A
       dataset in memory is read by one indexing operation this way, and one whose samples differ in
       size puts them together as it likes.
    2. ``__getitems__(indices)``: takes a list and returns the list of samples, as in torch.
    3. ``__getitem__(index)`` for each index.

    What 2 and 3 return is put together by ``torch.utils.data.default_collate``. A tensor, torch's
    ``TensorDataset``, ``StackDataset`` of tensors, and a ``Subset`` of these give the same batches
    by one indexing operation a tensor.
    """

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """Return one sample."""
        ...


def batch_maker(dataset: Any) -> MakeBatch:
    """Return what makes batches of ``dataset`` as it is now, in the first way of `MapDataset` that it has."""
    if hasattr(dataset, "get_batch"):
        make: MakeBatch = dataset.get_batch
        return make
    by_indexing = _maker_by_indexing(dataset)
    if by_indexing is not None:
        return by_indexing
    if getattr(dataset, "__getitems__", None):
        return lambda indices: default_collate(dataset.__getitems__(indices.tolist()))
    return lambda indices: default_collate([dataset[index] for index in indices.tolist()])


def pinned(batch: Any) -> Any:
    """Return ``batch`` in page-locked memory; what cannot be there stays as it is."""
    return map_tensors(batch, lambda leaf: leaf.pin_memory() if hasattr(leaf, "pin_memory") else leaf)


def _maker_by_indexing(dataset: Any) -> MakeBatch | None:
    """Return what indexes the tensors that ``dataset`` consists of; None where it consists of more."""
    kind = type(dataset)  # A subclass may add whatever it likes to a sample.
    if kind is Tensor:
        return _of_tensor(dataset)
    if kind is TensorDataset:
        return _of_parts(dict(enumerate(dataset.tensors)), named=False)
    if kind is StackDataset:
        named = isinstance(dataset.datasets, dict)
        return _of_parts(dataset.datasets if named else dict(enumerate(dataset.datasets)), named=named)
    return _of_subset(dataset) if kind is Subset else None


def _of_tensor(tensor: Tensor) -> MakeBatch | None:
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
        return None
    if tensor.is_cpu:
        return lambda indices: tensor.index_select(0, indices)
    return lambda indices: tensor.index_select(0, indices.to(tensor.device, non_blocking=True))


def _of_parts(parts: dict[Any, Any], *, named: bool) -> MakeBatch | None:
    makers = {name: _maker_by_indexing(part) for name, part in parts.items()}
    found = {name: make for name, make in makers.items() if make is not None}
    if len(found) < len(makers):
        return None
    if named:
        return lambda indices: {name: make(indices) for name, make in found.items()}
    in_order = list(found.values())
    return lambda indices: [make(indices) for make in in_order]  # Collation makes a list of tuples.


def _of_subset(subset: Subset[Any]) -> MakeBatch | None:
    make, numbers = _maker_by_indexing(subset.dataset), np.asarray(subset.indices)
    if make is None or numbers.dtype.kind not in "iu":
        return None
    whole: Any = subset.dataset
    # By way of NumPy it takes a tenth of the time. As Python counts, -1 is the last one.
    rows = torch.tensor(np.where(numbers < 0, numbers + len(whole), numbers), dtype=torch.int64)
    return lambda indices: make(rows.index_select(0, indices))
