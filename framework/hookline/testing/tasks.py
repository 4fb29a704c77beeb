"""A call that another process can make, also of a function that lives in a test module."""

from __future__ import annotations

import importlib.util
import io
import pickle
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hookline.errors import RunError

__all__ = ["Task"]


@dataclass(frozen=True)
class Task:
    """A call, pickled, and where the modules are whose names are in it.

    A pickle names a function by its module, and the modules of tests often cannot be imported by their names:
    pytest gives them names of its own.
    """

    call: bytes
    files: Mapping[str, str]

    @classmethod
    def of(cls, function: Callable[..., Any], arguments: Sequence[Any]) -> Task:
        """Return the call of ``function`` with ``arguments``.

        Raises:
            RunError: If it cannot be pickled.
        """
        buffer = io.BytesIO()
        pickler = _Pickler(buffer)
        try:
            pickler.dump((function, tuple(arguments)))
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise RunError(
                f"run_ranks: expected a function and arguments that can be pickled, got: {error}. "
                "Move functions and classes to the top of their module, and make objects in the function."
            ) from error
        modules = {name: sys.modules.get(name) for name in pickler.modules - {"__main__", "builtins"}}
        files = {name: str(file) for name, module in modules.items() if (file := _file(module))}
        return cls(buffer.getvalue(), files)

    def run(self) -> bytes:
        """Make the call, and return what it returned, pickled."""
        for name, file in self.files.items():
            _import(name, Path(file))
        function, arguments = pickle.loads(self.call)
        result = function(*arguments)
        try:
            # Not by the pipe, which sends tensors as files of a process that may be gone by then.
            return pickle.dumps(result)
        except Exception as error:
            raise RunError(
                f"run_ranks: expected a result that can be pickled, got: {error}. "
                "Return plain data and tensors."
            ) from error


class _Pickler(pickle.Pickler):
    """Takes note of the modules that the pickle will import."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.modules: set[str] = set()

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, (type, types.FunctionType)):
            self.modules.add(value.__module__)
        return NotImplemented


def _file(module: types.ModuleType | None) -> str | None:
    return getattr(module, "__file__", None)


def _import(name: str, file: Path) -> None:
    """Make ``name`` the module in ``file``, as it is in the process that made the task."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        spec = None
    if name in sys.modules or (spec is not None and spec.origin and Path(spec.origin) == file):
        return
    parent = name.rpartition(".")[0]
    while parent and parent not in sys.modules:
        package = types.ModuleType(parent)
        package.__path__ = []
        sys.modules[parent] = package
        parent = parent.rpartition(".")[0]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        return
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
