"""What ``hookline plugins`` and ``config schema`` start ends with them, whatever ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from functools import partial
from pathlib import Path

import pytest
from rich.text import Text

from hookline.catalog import installed, installed_plugins
from hookline.cli import layout
from hookline.inspection.probe import Report, probe

HANGS = """
import os, pathlib
pathlib.Path({mark!r}).write_text(str(os.getpid()))
while True:
    pass
"""
FINE = "from hookline import HookBase\n\nclass Fine(HookBase):\n    def after_step(self):\n        pass\n"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are read from /proc")


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def below(pid):
    """Return the processes that ``pid`` started, and those that they did."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def awaited(condition, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize(
    ("command", "sent"),
    [
        # Each command and each signal: what the first starts does not depend on what ends it.
        ("check", "SIGINT"),
        ("check", "SIGKILL"),
        ("info", "SIGHUP"),
        ("doctor", "SIGTERM"),
        ("schema", "SIGTERM"),
    ],
)
def test_a_signal_ends_every_process_and_leaves_no_folder(project, install, command, sent):
    mark, temporary = project.path / "began", project.path / "tmp"
    temporary.mkdir()
    install("hookline-hangs", HANGS.format(mark=str(mark)), hooks=["aaa = hookline_hangs:Hangs"])
    environment = {**os.environ, "PYTHONPATH": str(project.path / "site"), "TMPDIR": str(temporary)}
    words = {"info": ["plugins", "info", "aaa"], "schema": ["config", "schema"]}
    process = subprocess.Popen(
        [sys.executable, "-m", "hookline", *words.get(command, ["plugins", command])],
        env=environment,
        cwd=project.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert awaited(mark.exists, 90)
    started = below(process.pid)
    assert len(started) >= 3
    process.send_signal(getattr(signal, sent))
    output, _ = process.communicate(timeout=20)
    assert awaited(lambda: not any(map(is_running, started)), 5)
    assert "Traceback" not in output
    if sent != "SIGKILL":
        number = getattr(signal, sent)
        assert process.returncode == 128 + number
        assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("pause_s", [0.0, 0.7])
def test_ctrl_c_while_verify_plugins_starts_prints_no_traceback(project, pause_s):
    process = subprocess.Popen(
        [sys.executable, "-m", "hookline", "verify-plugins", "run.yaml"],
        cwd=project.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert awaited(lambda: any("forkserver" in command_of(pid) for pid in below(process.pid)), 60)
    time.sleep(pause_s)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (130, "")


def test_a_plugin_that_ends_the_worker_is_told_and_those_after_it_are_imported(project, install):
    install(
        "a-kills",
        "import os, signal\nos.kill(os.getppid(), signal.SIGTERM)\nwhile True: pass\n",
        hooks=["aaa-kills = a_kills:A"],
    )
    install("b-fine", FINE, hooks=["zzz-fine = b_fine:Fine"])
    own = [plugin for plugin in installed_plugins() if plugin.name in ("aaa-kills", "zzz-fine")]
    killer, fine = probe(own)
    assert "143" in killer.error
    assert (fine.error, fine.linted) == ("", True)


@pytest.mark.usefixtures("forked_workers")
def test_what_a_plugin_makes_in_the_temporary_folder_goes_with_its_process(project, install, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(project.path))
    install(
        "leaves",
        "import os, tempfile\ntempfile.mkdtemp(prefix='left')\nos._exit(0)\n",
        hooks=["leaves = leaves:A"],
    )
    before = set(project.path.iterdir())
    probe([plugin for plugin in installed_plugins() if plugin.name == "leaves"])
    assert set(project.path.iterdir()) == before


ODD = """
from hookline import HookBase

class Own(BaseException):
    pass

class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no words")

if {what!r} == "base":
    raise Own("by design")
if {what!r} == "mute":
    raise Mute

class Odd(HookBase):
    def after_step(self):
        pass
"""


@pytest.mark.usefixtures("forked_workers")
def test_odd_exceptions_are_reported_like_any_other(project, install):
    for what in ("base", "mute"):
        install(f"odd-{what}", ODD.format(what=what), hooks=[f"odd-{what} = odd_{what}:Odd"])
    base, mute = probe([plugin for plugin in installed_plugins() if plugin.name.startswith("odd-")])
    assert (base.error, base.line) == ("Own: by design", 12)
    assert (mute.error, mute.line) == ("Mute: no text, for its __str__ raises RuntimeError", 14)


@pytest.mark.parametrize(
    "content", ["[console_scripts]\nfoo\n", b"[console_scripts]\nfoo\xff = a:b\n"], ids=repr
)
def test_a_strangers_entry_points_cost_the_schema_nothing_and_the_doctor_names_them(
    project, install, content, monkeypatch
):
    monkeypatch.delenv("TORCH_DEVICE_BACKEND_AUTOLOAD", raising=False)
    install("stranger", "")
    (info,) = (project.path / "site").glob("stranger-*")
    data = content if isinstance(content, bytes) else content.encode()
    (info / "entry_points.txt").write_bytes(data)
    installed.cache_clear()
    environment = {**os.environ, "PYTHONPATH": str(project.path / "site")}
    doctor = project.fork("plugins", "doctor", "--json", **environment)
    (finding,) = json.loads(doctor.stdout)["findings"]
    assert (finding["check"], finding["subject"]) == ("metadata", "stranger")
    assert ("line 2, 'foo'" if isinstance(content, str) else "UnicodeDecodeError") in finding["message"]
    # Once in processes that import all anew.
    is_text = isinstance(content, str)
    run = partial(project.run, env=environment) if is_text else partial(project.fork, **environment)
    schema = run("config", "schema")
    assert schema.returncode == 0
    assert "torch.optim.AdamW" in schema.stdout


@pytest.fixture
def quick(monkeypatch):
    """Findings of metadata alone: nothing is imported."""
    monkeypatch.setattr("hookline.inspection.checks.probe", lambda plugins: [bare(one) for one in plugins])


def bare(plugin):
    return Report(plugin.name, plugin.kind, plugin.distribution, plugin.version, plugin.value, linted=True)


@pytest.mark.parametrize("name", ["a.b", "a/b", "spa ced", "-dash", "foo.py"])
@pytest.mark.usefixtures("quick")
def test_a_name_that_no_config_can_list_is_a_fault(project, install, name):
    install("odd-name", FINE, hooks=[f"{name} = odd_name:Fine"])
    for command in ("check", "doctor"):
        done = project.hookline("plugins", command)
        assert done.exit_code == 1
        assert f"odd-name:{name}: expected the name of an entry point of letters" in done.output


@pytest.mark.usefixtures("quick")
def test_one_name_twice_in_one_distribution_is_told_once(project, install):
    install("twice", FINE, hooks=["one = twice:A", "one = twice:Fine"])
    (finding,) = json.loads(project.hookline("plugins", "doctor", "--json").stdout)["findings"]
    assert finding["check"] == "name"
    assert "got 2: twice:A, twice:Fine; the last counts" in finding["message"]
    assert project.hookline("plugins", "list").stdout.count("twice 1.0") == 1
    assert project.hookline("plugins", "info", "one").exit_code == 0


@pytest.mark.usefixtures("quick")
def test_a_plugin_in_a_zip_misses_no_files(project, monkeypatch):
    path = project.path / "zipped.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("zipped.py", FINE)
        info = "hookline_zipped-1.0.dist-info"
        file.writestr(f"{info}/METADATA", "Name: hookline-zipped\nVersion: 1.0\n")
        file.writestr(f"{info}/entry_points.txt", "[hookline.hooks]\nzipped = zipped:Fine\n")
        file.writestr(f"{info}/RECORD", "zipped.py,,\n")
    monkeypatch.syspath_prepend(path)
    installed.cache_clear()
    diagnosis = json.loads(project.hookline("plugins", "doctor", "--json").stdout)
    assert diagnosis["findings"] == []
    assert "zipped" in [plugin["name"] for plugin in diagnosis["plugins"]]


@pytest.mark.usefixtures("quick")
def test_what_steers_a_terminal_is_not_printed(project, install):
    install("steers", FINE, hooks=["steers = steers:Fine"])
    (info,) = (project.path / "site").glob("steers-*")
    steering = "\x1b[31m\x1b]0;title\x07\u202egnp\u2066\x9b"
    (info / "METADATA").write_text(f"Name: steers\nVersion: 1.0\nSummary: Ü {steering}.\n", "utf-8")
    installed.cache_clear()
    shown = project.hookline("plugins", "list").stdout
    assert "Ü [31m]0;titlegnp." in shown
    assert not set(shown) & set(steering) - set("[31m]0;titlegnp")


def test_the_terminal_is_colored_by_us_alone(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    layout.echo(Text("red\x1b[5m", style="red"))
    assert capsys.readouterr().out == "\x1b[31mred[5m\x1b[0m\n"
