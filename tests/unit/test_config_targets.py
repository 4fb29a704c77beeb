"""A target leads to an object, or to a message that says what there is instead."""

from __future__ import annotations

import math
import pickle
import sys
from json import JSONDecoder

import pytest

from hookline.config import resolve_target
from hookline.errors import ConfigError

WHERE = "model.target (run.yaml:2)"
FORMS = "package.module:Name, package.module.Name or ./file.py:Name"

NET = """\
from collections import OrderedDict
from dataclasses import dataclass

@dataclass
class Net:
    width: int = 1

    class Inner:
        pass

def make(width):
    return Net(width)

_private = Net
"""


@pytest.fixture(autouse=True)
def _forget_modules():
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def refused(target, folder) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        resolve_target(target, folder, WHERE)
    return caught.value


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("json:JSONDecoder", JSONDecoder),
        ("json.JSONDecoder", JSONDecoder),
        ("json:JSONDecoder.decode", JSONDecoder.decode),
        ("math.pi", math.pi),
    ],
)
def test_a_name_of_a_module_is_found_in_either_form(target, found, tmp_path):
    assert resolve_target(target, tmp_path, WHERE) is found


def test_a_file_is_looked_up_beside_the_config_and_imported_once(folder):
    net = resolve_target("./net.py:Net", folder, WHERE)
    assert net(3).width == 3
    assert resolve_target("net.py:Net", folder, WHERE) is net
    assert resolve_target(f"../{folder.name}/net.py:Net", folder / "sub" / "..", WHERE) is net
    assert resolve_target(f"{folder}/net.py:Net.Inner", folder, WHERE) is net.Inner


def test_what_a_file_defines_can_be_pickled(folder):
    net = resolve_target("./net.py:Net", folder, WHERE)
    assert pickle.loads(pickle.dumps(net(3))) == net(3)
    assert net.__module__ in sys.modules


def test_two_files_of_one_name_are_two_modules(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "net.py").write_text("Net = 'another'")
    first, second = (resolve_target("./net.py:Net", base, WHERE) for base in (folder, other))
    assert second == "another"
    assert first is not second


def test_a_file_hides_no_module(tmp_path):
    (tmp_path / "json.py").write_text("JSONDecoder = 3")
    assert resolve_target("./json.py:JSONDecoder", tmp_path, WHERE) == 3
    assert resolve_target("json:JSONDecoder", tmp_path, WHERE) is JSONDecoder


@pytest.mark.parametrize(
    "target", ["AdamW", "./net.py", "./net.py:", "a b:c", "json:1x", ":x", "a:b:c", "json."]
)
def test_a_malformed_target_is_refused_with_the_forms(target, folder):
    assert str(refused(target, folder)) == f"{WHERE}: expected {FORMS}, got {target!r}."


def test_a_missing_file_is_refused_with_those_that_are_there(folder):
    (folder / "data.py").touch()
    assert str(refused("./nett.py:Net", folder)) == (
        f"{WHERE}: expected a file that exists, got './nett.py:Net'. "
        f"Python files in {folder}: data.py, net.py. Did you mean 'net.py'?"
    )


def test_a_file_that_is_there_for_a_shell_is_answered_with_its_path_from_the_config(folder, monkeypatch):
    (folder / "configs").mkdir()
    monkeypatch.chdir(folder)
    for written, relative in (("configs", "../net.py"), ("..", f"./{folder.name}/net.py")):
        said = str(refused("./net.py:Net", (folder / written).resolve()))
        assert said.endswith(f" Paths are relative to the config: write {relative}.")


def test_a_file_of_something_else_is_refused(folder):
    (folder / "net.txt").write_text(NET)
    expected = f"{WHERE}: expected a Python file (.py), got './net.txt:Net'."
    assert str(refused("./net.txt:Net", folder)) == expected


def test_a_missing_name_of_a_file_is_refused_with_what_it_defines(folder):
    assert str(refused("./net.py:Nett", folder)) == (
        f"{WHERE}: expected a name in net.py, got './net.py:Nett'. Names in net.py: Net, make. "
        "Did you mean 'Net'?"
    )


def test_a_missing_name_of_a_module_is_refused_with_what_it_holds(tmp_path):
    assert str(refused("json:JSONDecodr", tmp_path)) == (
        f"{WHERE}: expected a name in json, got 'json:JSONDecodr'. "
        "Names in json: JSONDecodeError, JSONDecoder, JSONEncoder, dump, dumps, load, "
        "loads. Did you mean 'JSONDecoder'?"
    )


def test_many_names_are_cut_short(tmp_path):
    (tmp_path / "many.py").write_text("".join(f"def f{i:02}(): pass\n" for i in range(30)))
    assert "f18, f19, … (30 in all)." in str(refused("./many.py:g", tmp_path))


def test_a_missing_submodule_is_refused_with_those_that_are_there(tmp_path):
    assert str(refused("json.decodr:JSONDecoder", tmp_path)) == (
        f"{WHERE}: expected a module that can be found, got 'json.decodr:JSONDecoder'. "
        "There is no module 'json.decodr'; modules in json: decoder, encoder, scanner, tool. "
        "Did you mean 'decoder'?"
    )


def test_a_missing_package_is_named_with_what_to_install(tmp_path):
    error = refused("no_such_package_of_mine.sub:Net", tmp_path)
    assert str(error) == (
        f"{WHERE}: expected a module that can be found, got 'no_such_package_of_mine.sub:Net'. "
        "There is no module 'no_such_package_of_mine'. "
        "Install the package that holds 'no_such_package_of_mine'."
    )
    assert isinstance(error.__cause__, ModuleNotFoundError)


def test_a_misspelt_package_is_recognized(tmp_path):
    assert str(refused("torchh.optim:SGD", tmp_path)).endswith("Did you mean 'torch'?")


def test_a_file_named_like_a_module_is_pointed_out(folder):
    assert str(refused("net:Net", folder)).endswith(
        "For the file in the config's folder, write ./net.py:Name."
    )


@pytest.mark.parametrize(
    ("code", "got", "line"),
    [
        ("def f():\n    raise KeyError('boo')\n\nf()\n", "KeyError: 'boo'", 2),
        ("import json\njson.loads('{')\n", "JSONDecodeError: Expecting property name", 2),
        ("x = 1\nraise SystemExit(3)\n", "SystemExit: 3", 2),
        ("x = 1\ny = (\n", "SyntaxError: '(' was never closed", 2),
        ("\n\nimport utils_of_mine\n", "ModuleNotFoundError: No module named 'utils_of_mine'", 3),
    ],
)
def test_an_import_that_raises_is_shown_with_file_and_line(code, got, line, tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(code)
    error = refused("./bad.py:Net", tmp_path)
    assert str(error).startswith(f"{WHERE}: expected ./bad.py:Net to import without an error, got ")
    assert got in str(error)
    assert f"It was raised at {path}:{line}." in str(error)
    assert type(error.__cause__).__name__ == got.partition(":")[0]


def test_a_module_that_is_missing_inside_an_import_is_not_mistaken_for_the_target(tmp_path, monkeypatch):
    (tmp_path / "importing.py").write_text("import utils_of_mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    message = str(refused("importing:Net", tmp_path))
    assert "expected importing:Net to import without an error" in message
    assert message.endswith(
        "Install what holds 'utils_of_mine'; for a file of yours, put its folder on PYTHONPATH."
    )


def test_a_module_that_exits_is_an_error_too(tmp_path, monkeypatch):
    (tmp_path / "exiting.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    assert "got 'SystemExit: 3'" in str(refused("exiting:Net", tmp_path))


def test_an_interrupt_is_not_caught(tmp_path):
    (tmp_path / "stop.py").write_text("raise KeyboardInterrupt\n")
    before = set(sys.modules)
    with pytest.raises(KeyboardInterrupt):
        resolve_target("./stop.py:x", tmp_path, WHERE)
    assert not any("stop" in name for name in set(sys.modules) - before)


def test_a_file_that_failed_is_imported_again(tmp_path):
    path = tmp_path / "late.py"
    path.write_text("raise ValueError")
    refused("./late.py:x", tmp_path)
    path.write_text("x = 3  # mended")
    assert resolve_target("./late.py:x", tmp_path, WHERE) == 3
