"""What the outside may rely on: exports, entry points, laziness, and pluggy's inner order."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
import textwrap
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

import pluggy
import pytest

import hookline
from hookline import hooks

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", hookline.__all__)
def test_every_public_name_is_there_and_documented(name):
    value = getattr(hookline, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__doc__, name


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = hookline.Trainer


def test_importing_hookline_imports_nothing_heavy():
    code = "import sys, hookline; print(*{name.partition('.')[0] for name in sys.modules})"
    modules = set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )
    assert not modules & {"torch", "numpy", "pydantic", "pluggy", "rich", "yaml", "hookline_json"}


def test_every_built_in_hook_is_registered_through_the_cores_own_entry_points():
    points = [point for point in entry_points(group="hookline.hooks") if point.dist.name == "hookline"]
    assert {point.load().__name__ for point in points} == set(hooks.__all__)
    assert len({point.value.partition(":")[0] for point in points}) == len(points)


def test_known_plugins_name_distributions_by_kind():
    known = json.loads(files("hookline.plugins").joinpath("known.json").read_text())
    assert known.keys() == {"hookline.hooks", "hookline.writers"}
    for folder in (ROOT / "plugins").iterdir():
        if (folder / "pyproject.toml").exists():
            name = folder.name.removeprefix("hookline-")
            assert folder.name in (group.get(name) for group in known.values())


def test_pluggy_keeps_implementations_in_the_list_that_is_sorted():
    # HookManager sorts this private list; should a release of pluggy change it, this says so.
    manager = pluggy.PluginManager("p")
    spec, impl = pluggy.HookspecMarker("p"), pluggy.HookimplMarker("p")

    class Spec:
        @spec
        def hook(self):
            """A hook."""

    def plugin(result):
        class Plugin:
            @impl
            def hook(self):
                return result

        return Plugin()

    manager.add_hookspecs(Spec)
    manager.register(plugin(1))
    manager.register(plugin(2))
    assert manager.hook.hook() == [2, 1]
    manager.hook.hook._hookimpls.reverse()
    assert manager.hook.hook() == [1, 2]


def test_the_kernel_imports_torch_and_the_standard_library_only():
    code = """
        import sys, torch
        before = set(sys.modules)
        import hookline.kernel
        new = {name.split(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names
        ours = {name for name in sys.modules if name.startswith("hookline.")}
        print(sorted(new - {"torch"}), sorted(name.split(".")[1] for name in ours))
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, text=True
    )
    others, rooms = re.findall(r"\[.*?\]", ran.stdout)
    assert others == "['hookline']"
    assert set(ast.literal_eval(rooms)) == {"kernel", "nesting"}


def test_the_step_of_the_kernel_is_small():
    assert len((ROOT / "framework/hookline/kernel/step.py").read_text().splitlines()) < 300


@pytest.mark.parametrize(
    "name",
    [
        "hookline_csv",
        "hookline_ema",
        "hookline_json",
        "hookline_tensorboard",
        "hookline_throughput",
        "hookline_wandb",
    ],
)
def test_plugins_use_public_names_of_the_core_only(name):
    source = Path(importlib.import_module(name).__file__).parent
    for path in source.rglob("*.py"):
        for line in path.read_text().splitlines():
            assert not line.strip().startswith(("from hookline.", "import hookline.")), f"{path}: {line}"
            if line.startswith("from hookline import"):
                imported = {part.strip(" ()") for part in line.partition("import")[2].split(",")} - {""}
                assert imported <= set(hookline.__all__), f"{path}: {line}"
