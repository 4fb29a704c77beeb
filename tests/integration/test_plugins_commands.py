"""``hookline plugins`` on machines with all sorts of packages, sound and broken."""

from __future__ import annotations

import json
import os
import sys
import textwrap

import importlib_metadata
import pytest
import yaml

from hookline.catalog import installed, local_plugin, metadata
from hookline.errors import PluginError
from hookline.inspection import probe as probe_module
from hookline.inspection.checks import faults_of
from hookline.inspection.probe import probe

HELLO = '''
from hookline import HookBase

class Hello(HookBase):
    """Says hello.

    Args:
        greeting: What to say.
        period: How often.
    """

    observer = True

    def __init__(self, greeting: str, period: int = 2):
        self.greeting, self.period = greeting, period

    def after_step(self):
        """A hook."""
'''


@pytest.fixture(autouse=True)
def quick_workers(request):
    """Start workers quickly, but in a test whose matter is how they start."""
    if "real_workers" not in request.fixturenames:
        request.getfixturevalue("forked_workers")


@pytest.fixture
def real_workers():
    """Asked for by a test whose matter is how workers start."""


class Machine:
    """Fake distributions in a folder of their own, in front of what is installed."""

    def __init__(self, site, project):
        self.site, self.project = site, project

    def add(self, name, code=HELLO, version="1.0", point=None, requires=(), files=(), metadata=True, **texts):
        module = name.replace("-", "_")
        if code is not None:
            (self.site / f"{module}.py").write_text(textwrap.dedent(code))
        info = self.site / f"{module}-{version}.dist-info"
        info.mkdir()
        lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {one}" for one in requires)]
        default = f"[hookline.hooks]\n{point or name.removeprefix('hookline-')} = {module}:Hello\n"
        texts = {"entry_points.txt": default, **({"METADATA": "\n".join(lines)} if metadata else {}), **texts}
        for file, text in texts.items():
            (info / file).write_text(text)
        installed.cache_clear()

    def run(self, *arguments):
        """Run a command of ``hookline plugins``; return its exit code and its output."""
        done = self.project.hookline("plugins", *arguments)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.output

    def json(self, *arguments):
        """Run a command with ``--json``; return its exit code and its data."""
        done = self.project.hookline("plugins", *arguments, "--json")
        return done.exit_code, json.loads(done.stdout)

    def findings(self):
        """Return what the doctor finds wrong, by what was looked at."""
        code, diagnosis = self.json("doctor")
        assert code == (1 if diagnosis["findings"] else 0)
        assert diagnosis["healthy"] == (code == 0)
        return {finding["check"]: finding["message"] for finding in diagnosis["findings"]}


@pytest.fixture
def machine(project, tmp_path_factory, monkeypatch):
    site = tmp_path_factory.mktemp("site")
    monkeypatch.syspath_prepend(site)
    installed.cache_clear()
    yield Machine(site, project)
    installed.cache_clear()


@pytest.fixture
def alone(machine, monkeypatch):
    """A machine that has the core and nothing else; metadata is the edge of what can be faked here."""
    real = importlib_metadata.distributions

    def core_only(**options):
        return [one for one in real(**options) if "hookline" not in one.name or one.name == "hookline"]

    monkeypatch.setattr(metadata, "distributions", core_only)
    installed.cache_clear()
    return machine


# ---- the machines


def test_with_no_plugins_but_the_cores(alone):
    code, rows = alone.json("list")
    assert code == 0
    assert {row["distribution"] for row in rows} == {"hookline"}
    assert {row["kind"] for row in rows} == {"hook"}
    code, output = alone.run("list")
    assert (code, output.split()[-2:]) == (0, ["Writers", "none"])
    assert alone.findings() == {}
    assert alone.run("info", "timer")[0] == 0
    code, output = alone.run("info", "json")
    assert (code, "Try 'pip install hookline-json'" in output) == (2, True)
    assert alone.json("hooks")[0] == 0


def test_with_all_of_them(machine):
    code, reports = machine.json("check")
    assert code == 0
    assert {report["name"] for report in reports} >= {"schedule", "json", "tensorboard", "wandb"}
    assert all(report["ok"] and report["import_s"] is not None for report in reports)
    assert machine.run("check", "json", "timer")[1].endswith("2 of 2 plugins in order.\n")
    code, output = machine.run("doctor")
    assert (code, output.splitlines()[-1]) == (0, "All is well.")


def test_with_a_broken_one(machine):
    machine.add("hookline-broken", "x = 1\nimport nothing_here\n")
    assert "hookline-broken 1.0" in machine.run("list")[1]
    code, output = machine.run("info", "broken")
    assert (code, "No module named 'nothing_here'" in output) == (1, True)
    code, (report,) = machine.json("check", "broken")
    (problem,) = report["problems"]
    assert (code, report["ok"], problem["line"]) == (1, False, 2)
    assert problem["file"] == str(machine.site / "hookline_broken.py")
    assert problem["mend"] == "Install what holds 'nothing_here'"
    assert machine.findings().keys() == {"import"}
    assert machine.run("hooks")[0] == 0


def test_with_two_under_one_name(machine):
    machine.add("hookline-one", point="same")
    machine.add("hookline-two", point="same", version="2.0")
    output = machine.run("list")[1]
    assert "hookline-one:same" in output
    assert "hookline-two:same" in output
    code, output = machine.run("info", "same")
    assert (code, "hookline-one:same, hookline-two:same" in output) == (2, True)
    code, (info,) = machine.json("info", "hookline-two:same")
    assert (code, info["version"]) == (0, "2.0")
    assert "hookline-two:same:" in info["snippet"]
    assert len(machine.json("check", "same")[1]) == 2
    assert "write 'hookline-one:same' or 'hookline-two:same'" in machine.findings()["name"]


def test_with_one_that_needs_a_newer_hookline(machine):
    machine.add("hookline-early", "raise RuntimeError('imported')", requires=["hookline >=9"])
    code, (report,) = machine.json("check", "early")
    assert (code, report["import_s"]) == (1, None)
    assert report["problems"][0]["got"].startswith("one that requires hookline>=9, and 0.")
    findings = machine.findings()
    assert findings.keys() == {"requirement"}
    assert "pip install 'hookline>=9'" in findings["requirement"]
    assert machine.run("info", "early")[0] == 1
    assert "early" in machine.run("list")[1]


def test_with_an_editable_one_whose_files_are_gone(machine):
    origin = {"url": f"file://{machine.site}/nowhere", "dir_info": {"editable": True}}
    machine.add("hookline-gone", None, **{"direct_url.json": json.dumps(origin)})
    findings = machine.findings()
    assert findings.keys() == {"editable"}
    assert f"{machine.site}/nowhere, which is gone" in findings["editable"]
    (row,) = [row for row in machine.json("list")[1] if row["name"] == "gone"]
    assert row["editable"]
    code, (report,) = machine.json("check", "gone")
    assert (code, "leads nowhere" in report["problems"][0]["mend"]) == (1, True)
    assert machine.run("info", "gone")[0] == 1


def test_the_doctor_names_every_kind_of_broken_installation(machine):
    machine.add("hookline-half", None, metadata=False)
    machine.add("hookline-double")
    machine.add("hookline-double", version="2.0")
    machine.add("hookline-nowhere", None)
    machine.add("hookline-files", RECORD="hookline_files.py,,\nhookline_more.py,,\n")
    machine.add("hookline-python", METADATA="Name: hookline-python\nVersion: 1\nRequires-Python: >=9\n")
    machine.add("hookline-needs", requires=["nothing-here>2", "hookline"])
    machine.add("unrelated", None, metadata=False, **{"entry_points.txt": "[console_scripts]\nx = y:z\n"})
    machine.add("hookline-malformed", **{"entry_points.txt": "[hookline.hooks]\nmalformed = no module!\n"})
    (machine.site / "~ookline_old-1.0.dist-info").mkdir()
    found = machine.json("doctor")[1]["findings"]
    by_subject = {finding["subject"]: (finding["check"], finding["message"]) for finding in found}
    words = {
        "hookline_half": ("metadata", "half removed"),
        "hookline-double": ("duplicate", "expected one installation of it, got 2"),
        "nowhere": ("entry-point", "there is no module 'hookline_nowhere'"),
        "hookline-files": ("files", "hookline_more.py"),
        "hookline-python": ("requirement", "expected Python >=9"),
        "hookline-needs": ("requirement", "nothing-here>2, which it requires, got none"),
        "malformed": ("entry-point", "does not read module:Name"),
        "~ookline_old": ("metadata", "interrupted pip"),
    }
    assert by_subject.keys() == words.keys()
    for subject, (check, word) in words.items():
        assert by_subject[subject][0] == check
        assert word in by_subject[subject][1]
    assert "Delete what is stale" in by_subject["hookline-double"][1]


@pytest.mark.usefixtures("real_workers")
def test_entry_points_that_nobody_can_read_stop_no_command(machine):
    # torch reads the entry points of all distributions as it is imported, and fails.
    machine.add("hookline-bad", **{"entry_points.txt": "[hookline.hooks]\nno equals sign\n"})
    assert "plugins in it are not found" in machine.findings()["metadata"]
    environment = {**os.environ, "PYTHONPATH": str(machine.site)}
    environment.pop("TORCH_DEVICE_BACKEND_AUTOLOAD", None)
    done = machine.project.run("plugins", "list", env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    done = machine.project.run("train", "run.yaml", "train.max_iter=2", env=environment)
    assert done.returncode == 0
    assert done.stderr.startswith("warning: The metadata of an installed distribution cannot be read")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("options", [[], ["--no-plugins"]])
def test_a_plugin_named_like_one_that_every_run_has_disturbs_no_run(machine, options):
    points = "[hookline.hooks]\nschedule = acme_sched:Hello\ntimer = acme_sched:Hello\n"
    machine.add("acme-sched", **{"entry_points.txt": points})
    done = machine.project.hookline("train", "run.yaml", "train.max_iter=2", *options)
    assert done.exit_code == 0, done.output
    if not options:
        assert machine.project.hookline("evaluate", machine.project.runs()[0]).exit_code == 0
    enabled = [row["distribution"] for row in machine.json("list", "run.yaml")[1] if row["name"] == "timer"]
    assert enabled == ["acme-sched", "hookline"]
    assert [row["enabled"] for row in machine.json("list", "run.yaml")[1] if row["name"] == "timer"] == [
        False,
        True,
    ]
    code, output = machine.run("hooks", "run.yaml")
    assert code == 0, output
    assert "acme" not in output


# ---- the probe


AWFUL = {
    "crashes": "import ctypes\n\nctypes.string_at(0)\n",
    "exits": "print('bye')\nraise SystemExit(3)\n",
    "leaves": "import os\nos._exit(4)\n",
    "hangs": "import time\n\ntime.sleep(60)\n",
    "interrupts": "raise KeyboardInterrupt\n",
    "prints": "import sys\nprint('{')\nprint('x' * 200_000, file=sys.stderr)\n" + HELLO,
    "threads": "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n" + HELLO,
    "wrong": "def f(:\n",
    "fine": HELLO,
}


def awful(project):
    for name, code in AWFUL.items():
        (project.path / f"{name}.py").write_text(code)
    return [local_plugin(f"./{name}.py:Hello", project.path) for name in AWFUL]


@pytest.mark.usefixtures("real_workers")
def test_whatever_a_plugin_does_the_others_are_described(project, capfd):
    reports = dict(zip(AWFUL, probe(awful(project), timeout_s=3), strict=True))
    errors = {name: report.error for name, report in reports.items()}
    assert errors == {
        "crashes": "a process that ended with SIGSEGV",
        "exits": "SystemExit: 3",
        "leaves": "a process that ended with exit code 4",
        "hangs": "an import that did not end within 3 s",
        "interrupts": "KeyboardInterrupt",
        "prints": "",
        "threads": "",
        "wrong": "SyntaxError: invalid syntax (wrong.py, line 1)",
        "fine": "",
    }
    lines = {name: report.line for name, report in reports.items() if report.error}
    assert lines == {"crashes": 3, "exits": 2, "leaves": 0, "hangs": 3, "interrupts": 1, "wrong": 1}
    assert reports["crashes"].file == str(project.path / "crashes.py")
    assert capfd.readouterr() == ("", "")
    assert not any(name.startswith("hookline_local_fine") for name in sys.modules)


def test_a_plugin_is_described_without_being_built(project):
    fine = probe([local_plugin(f"{project.path}/line.py:Hello", project.path)])[0]
    assert (fine.kind, fine.factory, fine.hooks, fine.linted) == ("hook", "class", ["after_step"], True)
    assert (fine.file, fine.doc, fine.stateful) == (str(project.path / "line.py"), "", False)
    (option,) = fine.options
    assert (option["name"], option["default"], option["required"]) == ("period", 2, False)
    assert fine.options_schema["properties"]["period"]["type"] == "integer"
    assert fine.traits["state_version"] == 1


KINDS = """
from hookline import EventWriter, HookBase, hookimpl

class Needy(HookBase):
    def __init__(self, patience: int):
        raise RuntimeError("built")
    def after_step(self): ...
    def state_dict(self): ...
    def load_state_dict(self, state): ...

class Fails(HookBase):
    def __init__(self, period: int = 1):
        open("left_behind", "w").close()
        raise RuntimeError("no device")
    def after_step(self): ...

class Hides(HookBase):
    def __init__(self):
        self.after_step = 1
    def after_step(self): ...
    def before_step(self): ...

def promises(patience: int = 1) -> Needy:
    return Needy(patience)

def makes(period: int = 1):
    return type("Made", (HookBase,), {"after_train": lambda self: None})()

def asks(period: int):
    return makes()

class Keeps(EventWriter):
    journal = True
    def write(self, events): ...
    def state_dict(self): return {}
    def load_state_dict(self, state): ...

class Odd(HookBase):
    def __init__(self, infinite: float = float("inf"), function=print, items=(1, 2)): ...
    def after_step(self): ...

OBJECT = Odd()
"""


def test_each_kind_of_factory_is_described_as_far_as_it_can_be(project):
    (project.path / "kinds.py").write_text(KINDS)
    names = ["Needy", "Fails", "Hides", "promises", "makes", "asks", "Keeps", "Odd", "OBJECT", "Nobody"]
    found = probe([local_plugin(f"./kinds.py:{name}", project.path) for name in names])
    reports = dict(zip(names, found, strict=True))
    assert {name: report.factory for name, report in reports.items()} == {
        **dict.fromkeys(["Needy", "Fails", "Hides", "Keeps", "Odd"], "class"),
        **dict.fromkeys(["promises", "makes", "asks"], "function"),
        "OBJECT": "object",
        "Nobody": "",
    }
    faults = {name: [fault.got for fault in faults_of(report)] for name, report in reports.items()}
    assert faults.pop("Fails") == ["RuntimeError: no device"]
    assert faults.pop("Hides") == ["an int, which pluggy ignores"]
    assert faults.pop("promises") == ["RuntimeError: built"]
    (nobody,) = faults.pop("Nobody")
    assert nobody.startswith("a file without that name. Names in kinds.py: Fails, Hides")
    assert not any(faults.values())
    assert reports["Needy"].hooks == reports["promises"].hooks == ["after_step"]
    assert reports["makes"].hooks == ["after_train"]
    assert (reports["asks"].hooks, reports["asks"].linted) == ([], False)
    assert (reports["Keeps"].kind, reports["Keeps"].traits) == ("writer", {"journal": True})
    assert [reports[name].stateful for name in ("Needy", "Keeps", "Odd")] == [True, True, False]
    assert [option["default"] for option in reports["Odd"].options] == [
        "inf",
        "<built-in function print>",
        [1, 2],
    ]
    assert not (project.path / "left_behind").exists()


@pytest.mark.usefixtures("real_workers")
def test_where_processes_cannot_fork_each_plugin_has_a_fresh_one(project, monkeypatch):
    monkeypatch.setattr(probe_module, "_FORKS", False)
    plugins = {plugin.value.split("/")[-1]: plugin for plugin in awful(project)}
    crashes, fine = probe([plugins["crashes.py:Hello"], plugins["fine.py:Hello"]])
    assert crashes.error == "a process that ended with SIGSEGV"
    assert fine.hooks == ["after_step"]


@pytest.mark.usefixtures("real_workers")
def test_a_hookline_that_cannot_be_imported_is_told(project, monkeypatch, tmp_path):
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "torch.py").write_text("raise ImportError('no torch here')")
    monkeypatch.syspath_prepend(tmp_path / "shadow")
    with pytest.raises(PluginError, match="ImportError: no torch here"):
        probe(awful(project)[-1:])


# ---- what is shown


def test_a_config_says_what_is_enabled_and_where(machine):
    machine.project.path.joinpath("run.yaml").write_text(
        machine.project.path.joinpath("run.yaml")
        .read_text()
        .replace(
            "  - checkpoint: {period: 5, keep: 3}\n",
            "  - timer: false\n  - slow: {use: evaluate, period: 9}\n  - ./line.py:Hello\n  - absent\n",
        )
    )
    code, rows = machine.json("list", "run.yaml", "hooks-=progress", "writers+=hookline-wandb:wandb")
    said = {row["name"]: (row["enabled"], row["why"]) for row in rows}
    assert code == 0
    assert said["evaluate"] == (True, "run.yaml:11; slow at run.yaml:13")
    assert said["timer"] == (False, "off: run.yaml:12")
    assert said["progress"] == (False, "off: override 'hooks-=progress'")
    assert said["schedule"] == (True, "default")
    assert said["memory"] == (False, "")
    assert said["Hello"] == (True, "run.yaml:14")
    assert said["absent"] == (False, "not installed: run.yaml:15")
    assert said["wandb"] == (True, "override 'writers+=hookline-wandb:wandb'")
    assert [row["name"] for row in rows if not row["installed"]] == ["absent"]
    output = machine.run("list", "run.yaml")[1]
    assert "line.py" in output
    assert "no, off: run.yaml:12" in output


def test_an_ambiguous_name_in_a_config_enables_neither(machine):
    machine.add("hookline-mine", point="memory")
    rows = machine.json("list", "run.yaml", "hooks+=memory")[1]
    said = {row["why"] for row in rows if row["name"] == "memory"}
    assert said == {"ambiguous: override 'hooks+=memory'"}
    assert not any(row["enabled"] for row in rows if row["name"] == "memory")


def test_the_snippet_of_every_plugin_can_be_pasted_into_a_config(machine):
    for kind, lists in [("hook", "hooks"), ("writer", "writers")]:
        names = [row["name"] for row in machine.json("list")[1] if row["kind"] == kind]
        snippets = {name: machine.json("info", name)[1][0]["snippet"] for name in names}
        items = [yaml.safe_load(snippet)[lists][0] for snippet in snippets.values() if "…" not in snippet]
        assert len(items) > 2
        code, output = machine.run("list", "run.yaml", f"{lists}={json.dumps(items)}")
        assert code == 0, output
        if kind == "hook":
            code, output = machine.run("hooks", "run.yaml", f"hooks={json.dumps(items)}")
            assert code == 0, output


def test_info_shows_options_and_what_is_implemented(machine):
    machine.add("hookline-hi", requires=["hookline>=0.0.1"])
    code, output = machine.run("info", "hi")
    assert code == 0
    for text in (
        "Says hello.",
        "after_step",
        "observer",
        "What to say.",
        "required",
        "greeting: …",
        ">=0.0.1",
    ):
        assert text in output
    assert "Args:" not in output


CHOICES = """
import enum
from pathlib import Path
from hookline import HookBase

class Mode(enum.Enum):
    FAST = "fast"
    SLOW = "slow"

class Chooses(HookBase):
    def __init__(
        self,
        mode: Mode = Mode.FAST,
        more: "list[Mode] | None" = None,
        either: Mode | int = 3,
        some: tuple[Mode, ...] = (Mode.SLOW,),
        path: Path = Path("logs"),
    ):
        self.given = mode, more, either, some, path

    def after_step(self): ...
"""


def test_what_info_shows_of_an_enum_can_be_pasted_into_a_config(project):
    (project.path / "choices.py").write_text(CHOICES)
    output = project.hookline("plugins", "info", "./choices.py:Chooses").output
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in output.splitlines() if line.strip()}
    assert rows["mode"] == "'fast' | 'slow' \"fast\""
    assert rows["more"] == "list['fast' | 'slow'] | None null"
    assert rows["either"] == "'fast' | 'slow' | int 3"
    assert rows["some"] == "tuple['fast' | 'slow', ...] [\"slow\"]"
    snippet = yaml.safe_load(output.partition("In a config")[2])
    assert snippet["hooks"][0]["./choices.py:Chooses"] == {
        "mode": "fast",
        "either": 3,
        "some": ["slow"],
        "path": "logs",
    }
    done = project.hookline("plugins", "hooks", "run.yaml", f"hooks={json.dumps(snippet['hooks'])}")
    assert done.exit_code == 0, done.output


UNSETTABLE = """
from hookline import EventWriter, HookBase

class Hook(HookBase):
    def __init__(self, use: str = "x", period: int = "ten", model: "Modle" = 3): ...
    def after_step(self): ...

class Writer(EventWriter):
    def __init__(self, period: int = 1): ...
    def write(self, events): ...

def make(on_error: str = "x") -> Hook:
    return Hook()
"""


def test_options_that_could_never_be_set_are_told_by_check(project):
    (project.path / "mine.py").write_text(UNSETTABLE)
    names = [f"./mine.py:{name}" for name in ("Hook", "Writer", "make")]
    done = project.hookline("plugins", "check", *names, "--json")
    assert done.exit_code == 1
    reports = json.loads(done.stdout)
    found = {report["name"]: {fault["where"] for fault in report["problems"]} for report in reports}
    assert found["Hook"] == {"Hook.use", "Hook.period", "Hook.model"}
    assert found["Writer"] == {"Writer.period"}
    assert "make.on_error" in found["make"]


def test_a_file_that_is_checked_may_be_local(project):
    (project.path / "mine.py").write_text(HELLO.replace("after_step", "after_stepp"))
    done = project.hookline("plugins", "check", "./mine.py:Hello")
    assert done.exit_code == 1
    assert "Did you mean 'after_step'?" in done.output
    assert f"{project.path / 'mine.py'}:17" in done.output


def test_the_snippet_of_a_local_file_names_the_file(project):
    done = project.hookline("plugins", "info", "./line.py:Hello", "--json")
    assert json.loads(done.stdout)[0]["snippet"].splitlines()[1] == "  - ./line.py:Hello:"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["info", "chekpoint"], "Did you mean 'checkpoint'?"),
        (["check", "./line.py"], "Write ./line.py:Name for what is in it"),
        (["check", "run.yaml"], "Give the name of one"),
        (["info", "nothing"], "Try 'pip install hookline-nothing'"),
        (["info", "hookline-json:timer"], "expected an installed plugin"),
        (["info", "./lin.py:Hello"], "Did you mean 'line.py'?"),
        (["check", "timer", "nothing"], "got 'nothing'"),
        (["list", "hooks+=timer"], "a config before its overrides"),
        (["hooks", "hooks+=timer"], "a config before its overrides"),
        (["list", "rum.yaml"], "Did you mean 'run.yaml'?"),
        (["list", "run.yaml", "train.max_itr=3"], "Did you mean 'max_iter'?"),
        (["hooks", "run.yaml", "hooks.evaluate.perid=3"], "Did you mean 'period'?"),
        (["hooks", "run.yaml", "hooks+=nothing"], "expected an installed plugin"),
        (["info"], "Missing argument 'NAME'"),
        (["lst"], "No such command 'lst'"),
    ],
    ids=" ".join,
)
def test_a_wrong_word_is_one_message_and_exit_code_2(project, arguments, words):
    done = project.hookline("plugins", *arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stdout == ""


def test_hooks_are_shown_in_their_final_order_with_the_reason(project):
    (project.path / "order.py").write_text(
        "from hookline import HookBase, Period\n"
        "class Early(HookBase):\n"
        "    before = ('evaluate',)\n"
        "    def __init__(self, period: Period = 1): self.half = period / 2\n"
        "    def after_step(self): ...\n"
    )
    (project.path / "run.yaml").write_text(
        (project.path / "run.yaml").read_text().replace("period: 4", "period: 2 epochs")
        + "trainer: {target: hookline.default:DefaultTrainer}\n"
    )
    arguments = ["plugins", "hooks", "run.yaml", "hooks+={./order.py:Early: {period: 3 epochs}}"]
    (order,) = [
        one
        for one in json.loads(project.hookline(*arguments, "--json").stdout)
        if one["hook"] == "after_step"
    ]
    assert order["arguments"] == ["trainer"]
    places = {place["plugin"]: place["reason"] for place in order["places"]}
    assert list(places).index("Early") < list(places).index("evaluate")
    assert "declares before=('evaluate',)" in places["Early"]
    output = project.hookline(*arguments).output
    assert "after_backward(trainer)" in output
    assert "nobody" in output


def test_without_a_config_the_hooks_of_every_run_are_shown(project):
    done = project.hookline("plugins", "hooks", "--json")
    shown = {place["plugin"] for order in json.loads(done.stdout) for place in order["places"]}
    assert shown == {"schedule", "timer", "writers", "progress"}


def test_colour_is_for_terminals_and_can_be_refused(project):
    def printed(**environment):
        environment = {"TERM": "xterm", "COLUMNS": "80", **environment}
        return project.run("plugins", "list", "run.yaml", env={**os.environ, **environment}).stdout

    plain, coloured = printed(), printed(FORCE_COLOR="1")
    assert "\x1b" not in plain
    assert "\x1b[36m" in coloured
    assert "\x1b[3" not in printed(FORCE_COLOR="1", NO_COLOR="1")
    assert max(map(len, plain.splitlines())) <= 80
    assert not any(line.endswith(" ") for line in plain.splitlines())


def test_what_goes_into_a_pipe_has_one_line_for_each_plugin(project):
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    lines = project.run("plugins", "list", env=environment).stdout.splitlines()
    assert [line.split()[-1] for line in lines if line.strip().startswith("checkpoint ")] == ["well."]


def test_a_run_names_what_a_plugin_requires_when_its_import_fails(machine):
    machine.add("hookline-early", "raise SystemExit('no such name in hookline')", requires=["hookline >=9"])
    done = machine.project.hookline("train", "run.yaml", "hooks+=early")
    assert done.exit_code == 2
    assert "SystemExit" in done.stderr
    assert "It requires hookline>=9, and 0." in done.stderr
