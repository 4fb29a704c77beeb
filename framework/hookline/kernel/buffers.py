"""What a forward changes besides gradients, such as batch norm's running statistics, and how it is undone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from hookline.kernel.identity import are_same

__all__ = ["Buffers", "buffers_of"]


class _Room:
    """Memory for copies of some tensors of one dtype on one device.

    All of them are copied or put back by one operation, however many they are.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        sizes = [tensor.numel() for tensor in tensors]
        self.flat = tensors[0].new_empty(sum(sizes))
        parts = torch.split(self.flat, sizes)
        self.views = [part.view(each.shape) for part, each in zip(parts, tensors, strict=True)]


class Buffers:
    """Keeps the buffers of ``model`` as they were when `save` was called.

    A module that has come or gone since is noticed. What cannot be changed in place, a sparse buffer or
    one made by ``expand``, is left as it is.

    Attributes:
        modules: The model and all modules in it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.modules: list[nn.Module] = []
        self._parents: list[dict[str, Any]] = []
        self._modules: list[Any] = []
        self._dicts: list[dict[str, Any]] = []
        self._num_entries = -1
        self._places: list[tuple[dict[str, Any], str]] = []
        self._found: list[Any] = []
        self._shapes: list[Any] = []
        self._rooms: list[tuple[_Room, list[tuple[dict[str, Any], str]], list[Tensor]]] = []

    def refresh(self) -> None:
        """Notice modules and buffers that have come or gone."""
        if sum(map(len, self._dicts)) != self._num_entries or not self._has_same_modules():
            self._look()

    def save(self) -> None:
        """Copy every buffer; all on its device."""
        self.refresh()
        if not self._places:
            return
        found = [buffers[name] for buffers, name in self._places]
        if not are_same(found, self._found) or [*map(_shape, found)] != self._shapes:
            self._found, self._shapes = found, [*map(_shape, found)]
            self._rooms = self._built()
        with torch.no_grad():
            for room, _, tensors in self._rooms:
                torch._foreach_copy_(room.views, tensors)

    def restore(self, skip: bool | Tensor) -> None:
        """Put every buffer back if ``skip``; of one that was assigned anew, what it holds.

        One that has another shape now stays as it is.

        Args:
            skip: Where it is a tensor it is 0-D, 0 or 1, and the host does not wait for it.
        """
        if skip is False:
            return
        for room, places, tensors in self._rooms:
            now = [buffers[name] for buffers, name in places]
            is_skipped = torch.as_tensor(skip, device=room.flat.device) > 0
            is_whole = are_same(now, tensors) and [*map(_shape, now)] == [*map(_shape, room.views)]
            if isinstance(skip, Tensor) and is_whole:
                current = _Room(now)
                torch._foreach_copy_(current.views, now)
                # Arithmetic would pass NaN on.
                torch.where(is_skipped, room.flat, current.flat, out=current.flat)
                torch._foreach_copy_(now, current.views)
                continue
            for before, tensor in zip(room.views, now, strict=True):
                if tensor is not None and tensor.shape == before.shape:
                    tensor.copy_(before if skip is True else torch.where(is_skipped, before, tensor))

    def tensors(self) -> list[Tensor]:
        """Return the buffers, those that are None left out."""
        found = (buffers.get(name) for buffers, name in self._places)
        return [buffer for buffer in found if buffer is not None]

    def held(self) -> list[Any]:
        """Return what holds the memory of the copies."""
        return list(self._rooms)

    def _modules_now(self) -> list[Any]:
        return [*chain.from_iterable([each.values() for each in self._parents])]

    def _has_same_modules(self) -> bool:
        return are_same(self._modules_now(), self._modules)

    def _look(self) -> None:
        self.modules = list(self._model.modules())
        buffers = [buffers_of(module) for module in self.modules]
        children = [module._modules for module in self.modules]
        # Their number tells of what has come or gone, the modules themselves of what was replaced.
        self._dicts, self._parents = buffers + children, [each for each in children if each]
        self._num_entries, self._modules = sum(map(len, self._dicts)), self._modules_now()
        self._places = [(each, name) for each in buffers for name in each]
        self._found, self._shapes, self._rooms = [], [], []

    def _built(self) -> list[tuple[_Room, list[tuple[dict[str, Any], str]], list[Tensor]]]:
        kinds: dict[Any, list[tuple[tuple[dict[str, Any], str], Tensor]]] = {}
        seen: set[int] = set()
        for place, tensor in zip(self._places, self._found, strict=True):
            if tensor is not None and id(tensor) not in seen and _is_writable(tensor):
                seen.add(id(tensor))
                kinds.setdefault((tensor.dtype, tensor.device), []).append((place, tensor))
        rooms = []
        for kind in kinds.values():
            tensors = [tensor for _, tensor in kind]
            rooms.append((_Room(tensors), [place for place, _ in kind], tensors))
        return rooms


def buffers_of(module: nn.Module) -> dict[str, Any]:
    """Return where the buffers of ``module`` itself stand, by name."""
    if isinstance(module._buffers, dict):
        return module._buffers
    return dict(module.named_buffers(recurse=False))  # A ScriptModule's are elsewhere, and are not replaced.


def _shape(buffer: Tensor | None) -> Any:
    return None if buffer is None else buffer.shape


def _is_writable(buffer: Tensor) -> bool:
    # One that is sparse, or made by expand(), cannot be restored in place; nor can a forward change it so.
    if buffer.layout != torch.strided:
        return False
    overlaps = any(step == 0 and size > 1 for size, step in zip(buffer.shape, buffer.stride(), strict=True))
    return not overlaps
