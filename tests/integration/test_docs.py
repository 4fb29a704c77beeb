"""README.md and the pages of docs/ do what they say: every block of them is run, top to bottom.

Each page is run in a folder of its own that holds a copy of ``examples/``. What a fenced block is decides what
happens to it:

``console``
    Each line after ``$ `` is a command. The lines below it are what it prints, all of it; a command without such
    lines may print anything. ``…`` stands for any text, alone on a line for any lines. Numbers with a decimal
    point, speeds, run ids and times may differ from those shown. The exit code must be 0.
``python``
    A whole script, which is run.
``yaml``
    Sections of a config in ``examples/hello_hook/``. They are put in place of those of the ``config.yaml``
    there, and a trainer is built of the result.
``text``
    For people alone.

A comment on the line before a block says otherwise:

``<!-- test: file NAME -->``    The block is a file: it is written, not run.
``<!-- test: output -->``       The block is what the one before it printed.
``<!-- test: exit 2 -->``       Each command ends with this exit code.
``<!-- test: smoke -->``        ``hookline train`` is given ``--smoke``, so that it takes seconds.
``<!-- test: skip REASON -->``  Nothing happens.

``make TARGET`` is not run, but the target must be in the Makefile. ``pip install`` installs from this repository
alone, or from a folder that the page has made, and without pip: for the rest of the page the package can be imported
and its plugins are found. With ``-e`` it is a link, so what the page changes counts.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from hookline import load_config

from .forks import Forks

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SLOW = {
    "docs/authors/testing.md",
    "docs/explanation/trust.md",
    "docs/how-to/find-plugins.md",
    "docs/how-to/several-processes.md",
    "docs/tutorials/first-plugin.md",
}
LANGUAGES = ("console", "python", "yaml", "text")

BUILD = "from hookline import DefaultTrainer\nDefaultTrainer('examples/hello_hook/.config.yaml')\n"


class Block(NamedTuple):
    """A fenced block of a page, and what the comment before it says."""

    line: int
    language: str
    text: str
    directive: str
    argument: str


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
        for page in PAGES
        if (name := str(page.relative_to(ROOT)))
    ],
)
def test_a_page_does_what_it_says(page, forks, tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    reader = Reader(page, forks, tmp_path)
    for block in blocks(page.read_text()):
        reader.follow(block)


def test_what_is_shown_may_differ_only_in_what_differs_from_run_to_run():
    shown = "run  runs/a/20261122-101212-122387\n…\nloss 0.83  588 it/s\n"
    assert_same(shown, "run  runs/a/20270101-000000-abcdef\n1\n2\nloss 1.2e-05  1.5 it/s\n", "here")
    for other in ("runs/b", "loss x", "iter/s"):
        with pytest.raises(AssertionError, match="here shows"):
            assert_same(shown, f"run  runs/a/20261122-101212-122387\nloss 0.83  588 it/s\n{other}\n", "here")
    with pytest.raises(AssertionError, match="here shows"):
        assert_same("40 lines\n", "41 lines\n", "here")


@pytest.mark.slow
def test_the_pages_build_without_a_warning(tmp_path):
    sphinx = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going"]
    built = subprocess.run([*sphinx, ROOT / "docs", tmp_path], capture_output=True, text=True)
    assert built.stdout + built.stderr == ""
    assert built.returncode == 0


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page, but for those that are made of the code: none of them is a program."""
    text = re.sub(
        r"^<!-- generate: (?:.*\n)*?<!-- end -->$", lambda part: "\n" * part[0].count("\n"), text, flags=re.M
    )
    found = []
    fence = re.compile(
        r"^(?:<!-- test: (?P<directive>\w+) ?(?P<argument>.*) -->\n)?"
        r"(?P<fence>```+)(?P<language>\S*).*\n(?P<text>(?:.*\n)*?)(?P=fence)$",
        re.MULTILINE,
    )
    for match in fence.finditer(text):
        parts = match.groupdict(default="")
        del parts["fence"]
        found.append(Block(line=text.count("\n", 0, match.start()) + 1, **parts))
    return found


class Reader:
    """Somebody who does what a page says, in ``folder``."""

    def __init__(self, page: Path, forks: Forks, folder: Path) -> None:
        self.page, self.forks, self.folder = page, forks, folder
        self.printed = ""
        (self.folder / ".site").mkdir()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "PYTHONPATH": str(self.folder / ".site"), "PYTHONUNBUFFERED": "1"}
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", **own}

    def follow(self, block: Block) -> None:
        """Do what ``block`` says."""
        where = f"{self.page.relative_to(ROOT)}:{block.line}"
        if block.language.startswith("{") or block.directive == "skip":
            assert block.directive != "skip" or block.argument, f"{where}: skipped without a reason"
            return
        assert block.language in LANGUAGES, f"{where}: a block of {LANGUAGES}, not of {block.language!r}"
        if block.directive == "file":
            path = self.folder / block.argument
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.directive == "output":
            assert_same(block.text, self.printed, where)
        elif block.language == "console":
            self.run_all(block, where)
        elif block.language == "python":
            (self.folder / ".snippet.py").write_text(block.text)
            self.run("python .snippet.py", where)
        elif block.language == "yaml":
            self.build(yaml.safe_load(block.text), where)

    def run_all(self, block: Block, where: str) -> None:
        """Run the commands of a console and compare what they print."""
        commands = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
        assert commands.pop(0) == "", f"{where}: a console begins with a command"
        expected_code = int(block.argument) if block.directive == "exit" else 0
        for text in commands:
            command, _, expected = text.replace("\\\n> ", "").partition("\n")
            if block.directive == "smoke" and command.startswith("hookline train"):
                command += " --smoke"
            self.run(command, where, expected_code)
            if expected and block.directive != "smoke":
                assert_same(expected, self.printed, where)

    def run(self, command: str, where: str, expected_code: int = 0) -> None:
        """Run one command, which must end with the expected exit code."""
        words = shlex.split(command)
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), where
        elif words[:2] == ["pip", "install"]:
            for package in [word for word in words[2:] if not word.startswith("-")]:
                self.install(package.partition("[")[0], where, editable="-e" in words)
        else:
            code, self.printed = self.execute(command, words)
            assert code == expected_code, f"{where}: {command}\nexit code {code}\n{self.printed}"

    def execute(self, command: str, words: list[str]) -> tuple[int, str]:
        """Return exit code and output of one command."""
        needs_shell = re.search(r"[|;&<>$*~]", re.sub(r"'[^']*'|\"[^\"]*\"", "", command))
        own = dict(word.split("=", 1) for word in takewhile(re.compile("[A-Z_]+=").match, words))
        words = words[len(own) :]
        if words[0] in ("hookline", "python", "pytest") and not needs_shell:
            output = self.folder / ".output"
            output.write_text("")
            width = {"COLUMNS": "80"} if words[0] == "pytest" else {}
            code = self.forks.run(words, self.folder, {**self.environment, **width, **own}, output, output)
            return code, output.read_text()
        done = subprocess.run(
            command,
            shell=True,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    def install(self, package: str, where: str, editable: bool) -> None:
        """Make a package of this repository importable and its entry points found, as pip would."""
        places = [self.folder / package, ROOT / package, ROOT / "plugins" / package]
        project = next((path for path in places if (path / "pyproject.toml").is_file()), None)
        if project is None:
            assert package == "hookline", f"{where}: this repository has no package {package!r}"
            return
        about = tomllib.loads((project / "pyproject.toml").read_text())["project"]
        metadata = self.folder / ".site" / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
        if metadata.exists() or list(distributions(name=about["name"])):
            return
        for source in (project / "src").iterdir():
            if editable:
                (self.folder / ".site" / source.name).symlink_to(source)
            else:
                shutil.copytree(source, self.folder / ".site" / source.name)
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Name: {about['name']}\nVersion: {about['version']}\n")
        (metadata / "entry_points.txt").write_text(
            "".join(
                f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
                for group, points in about["entry-points"].items()
            )
        )

    def build(self, sections: dict, where: str) -> None:
        """Build a trainer of the sections, with those of the smallest example that they lack."""
        config = load_config(self.folder / "examples/hello_hook/config.yaml").to_dict()
        config["data"]["eval"] = config["data"]["train"]
        data = {**config["data"], **sections.get("data", {})}
        text = yaml.safe_dump({**config, **sections, "data": data})
        (self.folder / "examples/hello_hook/.config.yaml").write_text(text)
        (self.folder / ".build.py").write_text(BUILD)
        self.run("python .build.py", where)


def assert_same(expected: str, printed: str, where: str) -> None:
    """Fail unless ``printed`` is what the page shows, but for what differs from run to run."""
    lines = [
        r"(?:.*\n)*?" if line.strip() == "…" else re.escape(line.rstrip()).replace("…", ".*") + r"\n"
        for line in without_numbers(expected).splitlines()
    ]
    actual = "".join(f"{line.rstrip()}\n" for line in without_numbers(printed).splitlines())
    assert re.fullmatch("".join(lines), actual), (
        f"{where} shows\n{expected}\nbut this was printed:\n{printed}"
    )


def without_numbers(text: str) -> str:
    """Return ``text`` without what differs from run to run or from machine to machine."""
    text = re.sub(r"\d{8}-\d{6}-[0-9a-f]{6}", "RUN", text)
    text = re.sub(r"\d+:\d\d:\d\d", "TIME", text)
    text = re.sub(r"-?\d+(\.\d+(e[-+]\d+)?|e[-+]\d+)", "NUMBER", text)
    return re.sub(r"(NUMBER|\d+) (it/s|s)\b", r"NUMBER \2", text)
