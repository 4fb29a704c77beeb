"""``hookline config``: shown resolved, and described for editors with what is installed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest

from hookline.config import load_config
from hookline.config.source import read_file
from hookline.config.tree import plain
from hookline.inspection.targets import TargetProbe

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted([*ROOT.glob("examples/*/*.yaml"), *ROOT.glob("tests/integration/*/run.yaml")])


pytestmark = pytest.mark.usefixtures("forked_workers")


@pytest.fixture
def forked_targets(forks, monkeypatch):
    """Fork the process that imports targets, too, when it is waited for."""

    class Worker:
        returncode = None

        def __init__(self, *_, stderr, **__):
            self.log, self.stdin = stderr.name, self

        def __enter__(self):
            return self

        def __exit__(self, *_):
            """There is no pipe to be closed."""

        def write(self, text):
            self.request = json.loads(text)

        def wait(self, timeout=None):
            if self.returncode is None:
                path = os.pathsep.join(self.request.pop("path"))
                serve = ["hookline.inspection.targets:serve", json.dumps(self.request)]
                environment = {**os.environ, "PYTHONPATH": path}
                self.returncode = forks.run(serve, Path.cwd(), environment, stderr=self.log)

        def kill(self):
            """It has ended."""

    edge = SimpleNamespace(**{**vars(subprocess), "Popen": Worker})
    monkeypatch.setattr("hookline.inspection.targets.subprocess", edge)


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    """Return the schema of what this environment has installed."""
    from hookline.inspection.schema import describe_config

    return describe_config().schema


def problems(schema, config):
    return [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(config)]


def messages(schema, config):
    """Yield every message, those of the alternatives that did not fit among them."""
    errors = list(jsonschema.Draft7Validator(schema).iter_errors(config))
    while errors:
        error = errors.pop()
        yield error.message
        errors += error.context


def described(project, *arguments):
    result = project.hookline("config", "schema", *arguments)
    assert result.exit_code == 0, result.output
    schema = json.loads(result.stdout)
    jsonschema.Draft7Validator.check_schema(schema)
    return schema, result.stderr


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_every_example_is_right_in_the_schema(schema, path):
    assert len(EXAMPLES) > 2
    config = plain(read_file(path)[0])
    assert problems(schema, config) == []
    assert problems(schema, load_config(path).to_dict()) == []  # the config.yaml of a run


@pytest.mark.parametrize(
    ("section", "value", "said"),
    [
        ("hooks", [{"checkpoint": {"perod": 5}}], "'perod' was unexpected"),
        ("hooks", [{"checkpoint": {"keep": "three"}}], "'three' is not of type 'integer'"),
        ("hooks", ["chekpoint"], "is not one of"),
        ("writers", [{"tensorboard": {"period": 0.5}}], "0.5 is not of type"),
        ("optimizer", {"target": "torch.optim.AdamW", "weight_deca": 0}, "'weight_deca' was unexpected"),
        ("optimizer", {"target": "torch.optim:AdamW", "lr": "fast"}, "'fast' is not of type 'number'"),
        ("schedule", {"target": "hookline.schedules:Cosine", "warmup": 3}, "'warmup' was unexpected"),
        ("schedule", {"target": "torch.optim.lr_scheduler.StepLR"}, "'step_size' is a required property"),
    ],
    ids=str,
)
def test_what_is_wrong_for_what_is_installed_is_wrong_in_the_schema(schema, section, value, said):
    config = {
        "run": {"name": "a"},
        "optimizer": {"target": "torch.optim.SGD", "lr": 1},
        "train": {"max_iter": 3},
    }
    assert problems(schema, config) == []
    assert said in "\n".join(messages(schema, {**config, section: value}))


def test_the_schema_says_what_it_was_made_of(schema):
    assert "hookline-json 0.1.0" in schema["$comment"]
    assert "left out" not in schema["$comment"].lower()
    options = schema["definitions"]
    (checkpoint,) = [value for value in options.values() if value.get("title") == "checkpoint"]
    assert checkpoint["description"].startswith("Saves everything a resume needs")
    assert all(option.get("description") for option in checkpoint["properties"].values())


@pytest.mark.usefixtures("forked_targets")
def test_a_config_adds_its_targets_and_local_hooks(project):
    config = plain(read_file(project.path / "run.yaml")[0])
    config["hooks"] += [{"./line.py:Hello": {"period": 3}}, {"again": {"use": "./line.py:Hello"}}]
    (project.path / "more.yaml").write_text(json.dumps(config))
    schema, errors = described(project, "more.yaml")
    assert errors == ""
    assert problems(schema, config) == []
    for wrong in (
        {"model": {"target": "./line.py:Line", "widht": 3}},
        {"model": {"target": "./line.py:Line", "width": "x"}},
        {"data": {"train": {"target": "./line.py:points", "num_point": 3}}},
        {"hooks": [{"./line.py:Hello": {"perod": 3}}]},
        {"hooks": [{"again": {"use": "./line.py:Hello", "perod": 3}}]},
    ):
        assert len(problems(schema, {**config, **wrong})) == 1, wrong
    assert problems(schema, {**config, "model": {"target": "./line.py:Other", "any": 3}}) == []


@pytest.mark.usefixtures("forked_targets")
def test_a_config_that_is_not_finished_will_do(project):
    text = (
        "model: 3\n"
        "data: {train: , eval: {target: , metrics: 3}, test: [1]}\n"
        "hooks: [null, {}, 3, {a: {use: 1}}, {b: , c: 3}]\n"
        "writers: x\n"
    )
    (project.path / "half.yaml").write_text(text)
    assert described(project, "half.yaml")[1] == ""


@pytest.mark.usefixtures("forked_targets")
def test_what_a_config_names_and_cannot_be_imported_is_named(project):
    (project.path / "broken.py").write_text("print('hi')\nraise SystemExit(3)\n")
    (project.path / "dying.py").write_text("import os\nos._exit(3)\n")
    (project.path / "half.yaml").write_text(
        "model: {target: ./broken.py:Model}\n"
        "data: {train: {target: ./absent.py:Data}, eval: {target: ./dying.py:Data}}\n"
        "hooks: [./broken.py:Hook, {x: {use: ./absent.py:Hook}}]\n"
    )
    schema, errors = described(project, "half.yaml")
    lines = errors.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("hookline: left out hook ./broken.py:Hook: SystemExit: 3 (")
    assert lines[1].startswith("hookline: left out hook ./absent.py:Hook: ")
    assert any("model target ./broken.py:Model" in line and "SystemExit" in line for line in lines)
    assert any("data target ./absent.py:Data" in line for line in lines)
    assert any(
        "data target ./dying.py:Data: the process that imported it ended with 3" in line for line in lines
    )
    for line in lines:
        assert line.removeprefix("hookline: left out ") in schema["$comment"]


HOOK = """
from hookline import HookBase
class Hook(HookBase):
    def __init__(self, {option}: int = 3): pass
    def after_step(self): pass
"""


@pytest.mark.usefixtures("forked_targets")
def test_a_broken_plugin_is_left_out_and_an_ambiguous_one_is_on_offer_in_full(project, install, capfd):
    install("hookline-broken", "import nowhere_to_be_found", hooks=["broken = hookline_broken:Hook"])
    install("dist-one", f"print('noise')\n{HOOK.format(option='one')}", hooks=["same = dist_one:Hook"])
    install("dist-two", HOOK.format(option="two"), hooks=["same = dist_two:Hook"])
    schema, errors = described(project)
    assert capfd.readouterr() == ("", "")  # of the processes that import
    assert errors.startswith("hookline: left out hook broken of hookline-broken 1.0: ModuleNotFoundError: ")
    assert len(errors.splitlines()) == 1
    assert "Left out hook broken" in schema["$comment"]
    config = plain(read_file(project.path / "run.yaml")[0])
    assert problems(schema, config) == []
    for right in ({"dist-one:same": {"one": 1}}, {"dist_two:same": {"two": 1}}, "dist-two:same"):
        assert problems(schema, {**config, "hooks": [right]}) == [], right
    for wrong in ("broken", "same", {"same": {"one": 1}}, {"dist-one:same": {"two": 1}}):
        assert problems(schema, {**config, "hooks": [wrong]}) != [], wrong


@pytest.mark.usefixtures("forked_targets")
def test_the_schema_is_written_to_a_file_with_what_to_do_next(project):
    result = project.hookline("config", "schema", "run.yaml", "-o", "schema.json")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr == "Begin a config with: # yaml-language-server: $schema=schema.json\n"
    assert json.loads((project.path / "schema.json").read_text())["type"] == "object"


def test_a_schema_without_the_targets_of_torch_says_why(monkeypatch, tmp_path):
    monkeypatch.setattr("hookline.inspection.targets._WORKER", "raise RuntimeError('no torch')")
    with TargetProbe([("model", "./a.py:B")], tmp_path) as targets:
        found, failed = targets.offers()
    assert found == {}
    assert failed[0].endswith("ended with 1; it said RuntimeError: no torch")
    assert failed[1].startswith("model target ./a.py:B: ")


def test_a_target_that_raises_what_is_no_exception_hides_no_other(tmp_path):
    code = "class Own(BaseException):\n    def __str__(self):\n        raise OSError\n\nraise Own\n"
    (tmp_path / "odd.py").write_text(code)
    (tmp_path / "fine.py").write_text("def make(width: int = 3):\n    pass\n")
    with TargetProbe([("model", "./odd.py:A"), ("model", "./fine.py:make")], tmp_path) as targets:
        found, failed = targets.offers()
    assert [offer.name for offer in found["model"]] == ["./fine.py:make"]
    assert failed == ["model target ./odd.py:A: Own: no text, for its __str__ raises OSError"]


def test_a_target_whose_import_hangs_is_given_up_and_named(tmp_path, monkeypatch):
    from hookline.inspection import targets

    monkeypatch.setattr(targets, "_TIMEOUT_S", 0.5)
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(100)\n")
    with targets.TargetProbe([("model", "./slow.py:Model")], tmp_path) as probe:
        assert probe.offers()[1][-1:] == ["model target ./slow.py:Model: its import did not end within 0.5 s"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["schema", "absent.yaml"], "absent.yaml: expected a YAML file, got 'No such file or directory'"),
        (["schema", "line.py"], "expected"),
        (
            ["schema", "run.yaml", "-o", "no/such/folder.json"],
            "--output: expected a file in a folder that exists, got 'no/such/folder.json'",
        ),
        (
            ["schema", "run.yaml", "-o", "."],
            "--output: expected a file in a folder that exists, got '.'",
        ),
        (["schema", "run.yaml", "train.max_iter=3"], "unexpected extra argument"),
        (["schema", "--indent", "3"], "No such option"),
        (["schema", "."], "expected a YAML file, got 'Is a directory'"),
        (["show"], "Missing argument 'CONFIG'"),
        ([], "Missing argument 'CONFIG'"),
        (["shcema"], "shcema: expected a YAML file"),
        (["--overrides", "run.yaml"], "No such option"),
    ],
    ids=str,
)
def test_wrong_arguments_end_with_a_message_and_exit_code_2(project, arguments, said):
    result = project.hookline("config", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_config_shows_a_config_unless_schema_is_asked_for(project):
    shown = project.hookline("config", "run.yaml", "train.max_iter=7")
    assert shown.exit_code == 0
    assert "max_iter: 7" in shown.stdout
    assert project.hookline("config", "show", "run.yaml", "train.max_iter=7").stdout == shown.stdout
    for name in ("schema", "show"):
        (project.path / name).write_text((project.path / "run.yaml").read_text())
        assert "name: line" in project.hookline("config", f"./{name}").stdout
