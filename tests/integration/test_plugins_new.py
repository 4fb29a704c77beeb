"""``hookline plugins new``: what it makes is finished, and what is asked wrongly leaves nothing behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hookline.scaffold.names import MAX_LENGTH

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
LONGEST = "a" * MAX_LENGTH
FLAGS = {"hook": [], "writer": ["--writer"], "both": ["--hook", "--writer"]}


@pytest.fixture
def demo(project):
    """Return a function that makes a plugin with both kinds, and the environment in which it is installed."""

    def make(name="demo", flags=("--hook", "--writer")):
        result = project.hookline("plugins", "new", name, *flags)
        assert (result.exit_code, result.stderr) == (0, "")
        folder = project.path / name
        about = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        info = folder / "src" / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: 0.1.0\n")
        (info / "entry_points.txt").write_text(
            "".join(
                f"[{group}]\n{name} = {points[name]}\n" for group, points in about["entry-points"].items()
            )
        )
        environment = {"PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
        return folder, environment

    return make


def run(*words, cwd, **environment):
    env = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-m", *words], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_says_what_it_made_and_what_to_do_next(project):
    result = project.hookline("plugins", "new", "grad-norm", "--hook", "--writer")
    first, *rest = result.stdout.splitlines()
    assert first == (
        "Made the distribution hookline-grad-norm with the hook 'grad-norm' and the writer 'grad-norm':"
    )
    listed = {line.strip() for line in rest if line.startswith("  grad-norm/")}
    made = {
        str(path.relative_to(project.path))
        for path in Path("grad-norm").absolute().rglob("*")
        if path.is_file()
    }
    assert listed == made
    assert [line.strip() for line in rest[-3:]] == [
        "pip install -e 'grad-norm[dev]'",
        "pytest grad-norm",
        "hookline train run.yaml hooks+=grad-norm writers+=grad-norm",
    ]


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_the_flags_choose_what_it_has(project, flags):
    assert project.hookline("plugins", "new", "demo", *flags).exit_code == 0
    points = tomllib.loads(Path("demo/pyproject.toml").read_text())["project"]["entry-points"]
    wanted = [flag.removeprefix("--") for flag in flags] or ["hook"]
    assert list(points) == [f"hookline.{kind}s" for kind in wanted]


def test_dir_is_where_the_folder_is_made(project):
    (project.path / "my plugins").mkdir()
    result = project.hookline("plugins", "new", "demo", "--dir", "my plugins")
    assert (project.path / "my plugins/demo/pyproject.toml").is_file()
    assert "  pip install -e 'my plugins/demo[dev]'\n  pytest 'my plugins/demo'\n" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["Demo"], "NAME: expected lower-case words joined by '-', a letter first, 32 characters at most, got 'Demo'. Did you mean 'demo'?"),
        (["sub/demo"], "NAME: expected lower-case words joined by '-', a letter first, 32 characters at most, got 'sub/demo'. Write 'plugins new demo --dir sub'."),
        (["on"], "NAME: expected a name that is a word to YAML, got 'on'. In a config, YAML reads it as True. Choose another."),
        (["evaluate"], "NAME: expected a name that no installed hook has, got 'evaluate'. hookline 0.1.0 has one. Choose another."),
        (["sub"], "NAME: expected a name that nothing has in that folder, got 'sub'. Choose another name, or another place with --dir."),
        (["demo", "--dir", "nowhere"], "--dir: expected a folder that exists, got 'nowhere'."),
        (["demo", "--dir", "a" * 300], "--dir: expected a folder that exists, got 'aaa"),
        (["demo", "--dir", "run.yaml"], "--dir: expected a folder that exists, got 'run.yaml'."),
    ],
)  # fmt: skip
def test_what_is_asked_wrongly_is_one_message_and_leaves_nothing_behind(project, arguments, said):
    (project.path / "sub").mkdir()
    before = sorted(project.path.rglob("*"))
    result = project.hookline("plugins", "new", *arguments)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith(f"hookline: {said}")
    assert sorted(project.path.rglob("*")) == before


def test_a_plugin_is_begun_without_importing_torch(tmp_path):
    code = (
        "import sys; from hookline.cli import main; main(['plugins', 'new', 'demo'], standalone_mode=False)"
    )
    run_code = f"{code}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", run_code], cwd=tmp_path, capture_output=True).returncode == 0
    assert (tmp_path / "demo").is_dir()


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
@pytest.mark.parametrize("name", ["demo", LONGEST])
def test_ruff_finds_nothing_to_mend(project, name, flags):
    assert project.hookline("plugins", "new", name, *flags).exit_code == 0
    run("ruff", "check", "--no-cache", ".", cwd=name)
    run("ruff", "format", "--no-cache", "--check", ".", cwd=name)


@pytest.mark.slow
def test_its_types_are_right_to_mypy_strict(demo):
    folder, environment = demo()
    # Most of the time goes into torch, whose types are the same as the last time.
    kept = {"MYPY_CACHE_DIR": str(ROOT / ".mypy_cache/of-a-new-plugin")}
    assert "no issues found in 3 source files" in run("mypy", cwd=folder, **environment, **kept)


@pytest.mark.slow
def test_its_own_tests_pass(demo, forks, tmp_path):
    folder, environment = demo("grad-norm")
    output = tmp_path / "output"
    words = ["pytest", "grad-norm", "-p", "no:cacheprovider"]
    code = forks.run(words, folder.parent, {**os.environ, **environment}, output, output)
    assert code == 0, output.read_text()
    assert "11 passed" in output.read_text()


def test_a_run_uses_it_and_goes_on_where_it_stopped(project, demo):
    _, environment = demo()
    words = ["train", "run.yaml", "hooks+={demo: {period: 2}}", "writers+={demo: {scalars: '*_norm'}}"]

    def train(*more):
        done = project.fork(*words, *more, **environment)
        assert done.returncode == 0, done.stderr

    train("run.name=whole")
    train("run.name=halves", "train.stop_at=7")
    train("run.name=halves", "--resume", "latest")
    train("run.name=two", "writers+={again: {use: demo, scalars: '*_norm'}}")
    whole, halves = (project.path / "runs" / name / "latest" for name in ("whole", "halves"))
    rows = (whole / "demo.csv").read_text().splitlines()
    assert rows[0] == "iteration,name,value"
    assert [row.split(",")[0] for row in rows if "demo/weight_norm" in row] == ["1", "3", "5", "7", "9", "11"]
    assert (halves / "demo.csv").read_text() == (whole / "demo.csv").read_text()
    for name in ("demo", "again"):
        two = project.path / "runs/two/latest"
        assert (two / f"{name}.csv").read_text() == (whole / "demo.csv").read_text()
    metrics = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    norms = {
        str(each["iteration"]): str(each["demo/weight_norm"])
        for each in metrics
        if "demo/weight_norm" in each
    }
    assert norms == {row.split(",")[0]: row.split(",")[2] for row in rows if "demo/weight_norm" in row}
