"""The reference leaves nothing out, and everything in it says what it is for.

Most of it is made of the code by ``docs/_ext/generated.py``. What is not, such as the order of the hooks and the
list of public names, is written by hand, and these tests fail when the code goes ahead of it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest

import hookline
from hookline import DefaultTrainer, HookBase, TrainerBase, errors, schedules
from hookline.config import Config, describe_options, schema

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PLUGINS = sorted(path.parent.name for path in (ROOT / "plugins").glob("*/pyproject.toml"))
HOOKS, WRITERS = (
    sorted(point.name for point in entry_points(group=group) if point.dist.name in PLUGINS)
    for group in ("hookline.hooks", "hookline.writers")
)

spec = importlib.util.spec_from_file_location("generated", DOCS / "_ext" / "generated.py")
generated = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generated)

SHORTHANDS = {"hookline config show": "hookline config"}
"""What a command may be run as instead of its full name."""

SECTIONS = [name for name in schema.__all__ if name not in ("Config", "Target")]


def page(name: str) -> str:
    """Return a page as its reader sees it."""
    return generated.expand((DOCS / name).read_text())


def section(name: str, heading: str) -> str:
    """Return what stands below a heading of a page, up to the next one of the same level."""
    found = re.search(rf"^(##+) {re.escape(heading)}\n((?:.*\n)*?)(?=\1 |\Z)", page(name), re.MULTILINE)
    assert found, f"docs/{name} has no section {heading!r}"
    return found[2]


def described(text: str) -> dict[str, str]:
    """Return the last column of all tables in ``text`` by the names in their first, those of the heads too."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    rows = [[cell.strip(" `") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {row[0].split()[0]: row[-1] for row in rows}


@pytest.mark.parametrize("name", generated.hookspecs())
def test_every_hook_has_its_place_and_its_words(name):
    function = generated.hookspecs()[name]
    text = section("reference/hooks.md", name)
    assert f"def {name}(self, trainer: TrainerBase" in text
    assert function.__doc__, f"HookSpecs.{name} has no docstring"
    assert function.__doc__.splitlines()[0] in text
    assert re.search(rf"\b{name}\b", page("explanation/iteration.md")), (
        f"{name} is missing in the order of calls"
    )


def test_every_trait_is_explained():
    traits = {name for name in vars(HookBase)["__annotations__"] if not name.startswith("_")}
    assert described(section("reference/hooks.md", "Traits")).keys() == traits | {"attribute"}


def test_every_request_that_a_hook_can_make_is_listed():
    text = section("reference/hooks.md", "What a hook can ask for")
    requests = [name for name in vars(TrainerBase) if name.startswith("request_")]
    assert len(requests) == 3
    for name in requests:
        assert f"trainer.{name}(" in text


@pytest.mark.parametrize("name", generated.built_in_hooks())
def test_every_built_in_hook_and_its_options_are_described(name):
    text = section("reference/built-in-hooks.md", name)
    hook = generated.built_in_hooks()[name].load()
    assert hook.__doc__.splitlines()[0].replace("``", "") in text.replace("``", "")
    assert f"[{name}](#{name})" in page("reference/built-in-hooks.md"), (
        "say what it is for, in the first table"
    )
    assert_described(hook, described(text))


def test_every_plugin_of_this_repository_is_a_hook_or_a_writer():
    assert sorted(name.removeprefix("hookline-") for name in PLUGINS) == sorted(HOOKS + WRITERS)


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_of_a_plugin_and_its_options_are_described(name):
    (point,) = entry_points(group="hookline.hooks", name=name)
    assert_described(point.load(), described(section("reference/plugin-hooks.md", name)))


@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_and_its_options_are_described(name):
    (point,) = entry_points(group="hookline.writers", name=name)
    assert_described(point.load(), described(section("reference/writers.md", name)))


@pytest.mark.parametrize("name", schedules.__all__)
def test_every_schedule_and_its_options_are_described(name):
    schedule = getattr(schedules, name)
    if dataclasses.is_dataclass(schedule):
        assert_described(schedule, described(section("reference/config.md", name)))


def test_every_section_of_a_config_has_its_place():
    sections = {item.name for item in dataclasses.fields(Config) if item.compare}
    listed = re.findall(r"^\| \[(\w+)\]\(#[\w-]+\) \|", page("reference/config.md"), re.MULTILINE)
    assert set(listed) == sections


@pytest.mark.parametrize("name", SECTIONS)
def test_every_key_of_a_config_is_described(name):
    source = (DOCS / "reference/config.md").read_text()
    line = f"<!-- generate: section {name} -->"
    assert line in source, f"docs/reference/config.md has no line {line}"
    meanings = described(generated.expand(line))
    keys = {option.name for option in describe_options(getattr(schema, name))} - {"options"}
    assert meanings.keys() == keys | {"key"}
    for key, meaning in meanings.items():
        assert meaning or section("reference/config.md", key), f"{name}.{key} has no description"


def test_the_commands_of_groups_are_among_those_that_are_checked():
    assert {"hookline train", "hookline plugins", "hookline plugins list"} <= generated.commands().keys()


@pytest.mark.parametrize("name", generated.commands())
def test_every_command_is_run_by_a_test(name):
    # project.hookline("plugins", "list", …), machine.run("list", …) and the like.
    word = SHORTHANDS.get(name, name).split()[-1]
    call = rf"""\b(?:hookline|run|json|invoke)\((?:main, )?\[?(?:["']\w+["'], )*["']{word}["']"""
    tests = "\n".join(path.read_text() for path in (ROOT / "tests/integration").rglob("test_*.py"))
    assert re.search(call, tests), f"no test in tests/integration runs '{name}'"


@pytest.mark.parametrize("name", generated.commands())
def test_every_command_and_its_options_are_described(name):
    command = generated.commands()[name]
    text = section("reference/command-line.md", name)
    assert command.help, f"{name} has no help"
    assert command.help.partition("\n")[0] in text
    meanings = described(text)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            flag = parameter.opts[0]
            assert meanings.get(flag) or meanings[f"{flag},"], f"{flag} has no help"
        else:
            assert (parameter.metavar or parameter.name.upper()) in text


@pytest.mark.parametrize("name", generated.commands())
def test_every_command_is_run_on_a_page(name):
    pages = [path.read_text() for path in DOCS.rglob("*.md") if "_build" not in path.parts]
    shown = re.sub(r"<!-- test: skip .*-->\n```[^`]*```", "", "\n".join(pages))
    words = SHORTHANDS.get(name, name)
    assert re.search(rf"^\$ (?:\w+=\S+ )?{words}\b", shown, re.MULTILINE), (
        f"no page runs '{words}', so nobody reads what it prints"
    )


@pytest.mark.parametrize("page", sorted((DOCS / "authors").glob("*.md")), ids=lambda page: page.stem)
def test_the_authors_index_leads_to_every_page(page):
    index = (DOCS / "authors/index.md").read_text()
    assert page.stem == "index" or re.search(rf"^{page.stem}$", index, re.MULTILINE)
    assert page.stem == "index" or f"]({page.name})" in index


@pytest.mark.parametrize("name", hookline.__all__)
def test_every_public_name_is_in_the_reference(name):
    pages = page("reference/api.md") + page("reference/errors.md")
    found = re.findall(
        rf"^\.\. auto(?:class|exception|function|data):: hookline\.{name}$", pages, re.MULTILINE
    )
    assert len(found) == 1


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name.endswith("Error")])
def test_every_error_is_listed_with_its_exit_code(name):
    assert described(section("reference/errors.md", "The tree"))[name] == str(getattr(errors, name).exit_code)


def test_every_part_that_a_trainer_builds_is_listed():
    text = page("how-to/custom-trainer.md")
    methods = [name for name in vars(DefaultTrainer) if name.startswith("build_")]
    assert len(methods) == 8
    for name in methods:
        assert f"| `{name}(" in text


@pytest.mark.parametrize("path", generated.PAGES, ids=lambda path: path.stem)
def test_what_is_generated_is_in_the_page_as_it_is_now(path):
    assert path.read_text() == generated.expand(path.read_text()), "renew it with: make reference"


def test_a_page_cannot_ask_for_what_there_is_not():
    with pytest.raises(KeyError):
        generated.expand("<!-- generate: nothing -->")


def assert_described(owner: object, meanings: dict[str, str]) -> None:
    """Fail unless every option of ``owner`` has a row with a description."""
    for option in describe_options(owner):
        assert meanings.get(option.name), (
            f"{owner.__name__}.{option.name} has no description in its docstring"
        )
