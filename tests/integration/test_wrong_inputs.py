"""Whatever a user gets wrong: one clear message, exit code 2, no traceback, nothing left behind."""

from __future__ import annotations

import pytest

from hookline import DefaultTrainer, load_config

from .conftest import LINE


def assert_refused(result, *words):
    """Check the form that every refusal has."""
    output = result.output
    assert result.exit_code == 2, output
    assert isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in output
    for word in words:
        assert word in output


CONFIGS = {
    "empty": ("", ["run.yaml", "expected a mapping"]),
    "not_yaml": ("run: {name: a", ["run.yaml:1"]),
    "misspelt_key": ("train: {max_itr: 5}", ["train.max_itr (run.yaml:1)", "Did you mean 'max_iter'?"]),
    "misspelt_section": ("trian: {max_iter: 5}", ["trian (run.yaml:1)", "Did you mean 'train'?"]),
    "wrong_type": (
        "train: {max_iter: many}",
        ["train.max_iter (run.yaml:1)", "a whole number >= 1", "'many'"],
    ),
    "duplicate_key": ("run: {name: a}\nrun: {name: b}", ["run.yaml:2", "run"]),
    "unsafe_tag": ("run: !!python/object/apply:os.system [ls]", ["run.yaml:1", "python"]),
    "unknown_target": ("model: {target: ./line.py:Lime}", ["./line.py:Lime", "Did you mean 'Line'?"]),
    "unknown_option": ("model: {target: ./line.py:Line, widht: 2}", ["model.widht", "Did you mean 'width'?"]),
    "option_of_wrong_type": (
        "model: {target: ./line.py:Line, width: wide}",
        ["model.width", "a whole number"],
    ),
    "unknown_hook": ("hooks: [evalute]", ["hooks.evalute", "Did you mean 'evaluate'?"]),
    "unknown_writer": ("writers: [jsn]", ["writers.jsn", "Did you mean 'json'?"]),
    "two_of_one_name": ("hooks: [evaluate, evaluate]", ["evaluate", "{my-evaluate: {use: evaluate}}"]),
    "lost_indentation": ("hooks:\n  - checkpoint:\n    period: 5", ["period"]),
    "no_optimizer": ("run: {name: a}", ["optimizer", "got nothing"]),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_wrong_config_is_refused(project, name):
    text, words = CONFIGS[name]
    (project.path / "run.yaml").write_text(text)
    assert_refused(project.hookline("train", "run.yaml"), *words)
    assert not (project.path / "runs").exists()


def test_a_path_that_is_right_in_the_shell_is_answered_with_the_one_for_the_config(project):
    folder = project.path / "configs"
    folder.mkdir()
    (project.path / "run.yaml").rename(folder / "run.yaml")
    result = project.hookline("train", "configs/run.yaml", "model.target=./line.py:Line")
    assert_refused(result, "Paths are relative to the config: write ../line.py")


def test_a_function_that_is_not_found_hides_no_other_problem(project):
    (project.path / "line.py").write_text(
        "from collections.abc import Callable\n"
        + LINE.replace("width: int = 1", "width: int = 1, act: Callable = max")
    )
    result = project.hookline("train", "run.yaml", "model.act=math:sqr", "model.width=wide")
    assert_refused(result, "2 problems", "model.act", "Did you mean 'sqrt'?", "model.width")


OVERRIDES = {
    "train.max_itr=5": ["override 'train.max_itr=5'", "Did you mean 'max_iter'?"],
    "train.max_iter": ["override 'train.max_iter'", "KEY=VALUE"],
    "train.precision=fp8": ["one of fp32, bf16, fp16", "'fp8'"],
    "hooks.evalute.period=5": ["hooks.evalute", "Did you mean 'evaluate'?"],
    "hooks.evaluate.period=-1": ["hooks.evaluate.period", "-1"],
    "hooks-=timr": ["Did you mean 'timer'?"],
    "hooks+=confetti": ["Try 'pip install hookline-confetti'"],
    "writers=[json,comet]": ["writers.comet", "Try 'pip install hookline-comet'"],
    "train.device=cuda:99": ["train.device", "'cuda:99'"],
    "optimizer.target=torch.optim.LBFGS": ["LBFGS"],
    "model.target=line:Line": ["model.target", "line"],
    "trainer.target=./line.py:Line": ["a subclass of hookline.DefaultTrainer"],
    "optimizer.groups=[{match: '*.nothing'}]": ["a pattern that matches a parameter", "linear.weight"],
    "optimizer.groups=[{match: '*.bias', lrr: 1}]": ["optimizer.groups.0.lrr", "Did you mean 'lr'?"],
    "optimizer.groups={a: 1}": ["optimizer.groups", "expected a list"],
    "optimizer.groups=[3]": ["optimizer.groups.0", "{match: …}"],
    "data.train.metrics=3": ["data.train.metrics", "expected a mapping"],
    "hooks.evaluate.data=[eval]": ["a key of the section data", "There is: train, eval"],
    "hooks.evaluate.data=3": ["a key of the section data", "got 3"],
    "optimizer.lr=-1": [
        "optimizer.target",
        "ValueError: Invalid learning rate: -1",
        "Its options in the config are lr.",
    ],
    "optimizer={target: torch.optim.Adam, fused: true, foreach: true}": [
        "optimizer.target",
        "RuntimeError: `fused` and `foreach` cannot be `True` together",
    ],
    "train.compile={fullgraph: maybe, dynamic: soon}": [
        "2 problems:",
        "train.compile.fullgraph",
        "expected true or false, got 'maybe'.",
        "train.compile.dynamic",
    ],
    "train.compile={fulgraph: true}": ["train.compile.fulgraph", "Did you mean 'fullgraph'?"],
    "train.compile.model=a": ["train.compile.model", "hookline passes it itself."],
    "train.kernel=grpah": ["one of eager, graph, auto, got 'grpah'. Did you mean 'graph'?"],
    "data.eval.metrics.a=5": ["data.eval.metrics.a"],
    "hooks+=json": ["It is one of the writers"],
    "data.eval.metrics={a: {target: ./line.py:Nope}}": ["data.eval.metrics.a.target"],
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_a_wrong_override_is_refused(project, override):
    assert_refused(project.hookline("train", "run.yaml", override), *OVERRIDES[override])
    assert not project.runs()


def test_options_that_a_backend_of_compile_knows_are_left_to_it(project):
    options = "{fullgraph: true, dynamic: null, backend: eager, mode: null, options: {anything: 0.5}}"
    config = load_config(project.path / "run.yaml", [f"train.compile={options}"])
    assert DefaultTrainer.planned(config).problems == []


def test_every_problem_of_every_part_is_reported_at_once(project):
    result = project.hookline(
        "train",
        "run.yaml",
        "train.precision=fp8",
        "model.widht=2",
        "hooks+=confetti",
        "optimizer.lr=fast",
        "writers+=jsn",
    )
    assert_refused(
        result,
        "5 problems:",
        "train.precision",
        "model.widht",
        "hooks.confetti",
        "optimizer.lr",
        "writers.jsn",
    )


def test_a_missing_config_says_which_there_are(project):
    assert_refused(project.hookline("train", "rum.yaml"), "rum.yaml", "run.yaml")


@pytest.mark.parametrize(
    "arguments", [("--resume", "latest"), ("--resume", "runs/nothing"), ("--weights", "nothing")]
)
def test_resuming_or_loading_what_is_not_there_is_refused(project, arguments):
    assert_refused(project.hookline("train", "run.yaml", *arguments), "nothing")


def test_data_that_an_evaluation_needs_is_missed_before_training(project):
    result = project.hookline("train", "run.yaml", "hooks.evaluate.data=tset")
    assert_refused(
        result, "hooks.evaluate.data (override", "'tset'", "There is: train, eval", "Add data.tset"
    )
    assert not project.runs()


def test_an_unwritable_run_directory_is_refused(project):
    (project.path / "file").write_text("")
    assert_refused(
        project.hookline("train", "run.yaml", "run.dir=file"), "run directory", "Set run.dir to another"
    )


def test_evaluating_what_is_no_run_is_refused(project):
    assert_refused(project.hookline("evaluate", "run.yaml"), "a run directory")


def test_a_finished_run_has_nothing_to_resume(project):
    assert project.hookline("train", "run.yaml").exit_code == 0
    assert_refused(project.hookline("train", "run.yaml", "--resume", "latest"), "train.max_iter", "12")


PLUGINS = {
    "import_error": ("import no_such_module", "Thing", ["broken 1.0", "no_such_module"]),
    "nowhere": ("x = 1", "Thing", ["broken 1.0", "Thing"]),
    "syntax_error": ("def (", "Thing", ["broken 1.0", "SyntaxError"]),
    "misspelt_hook": (
        "from hookline import HookBase\nclass Thing(HookBase):\n    def after_setp(self): ...",
        "Thing",
        ["thing.after_setp", "Did you mean 'after_step'?"],
    ),
    "unmarked": ("class Thing:\n    def after_step(self, trainer): ...", "Thing", ["Add @hookimpl"]),
    "wrong_argument": (
        "from hookline import HookBase\nclass Thing(HookBase):\n    def after_step(self, tariner): ...",
        "Thing",
        ["'tariner'", "Did you mean 'trainer'?"],
    ),
    "raises_in_init": (
        "from hookline import HookBase\nclass Thing(HookBase):\n    def __init__(self): 1 / 0\n    def after_step(self): ...",
        "Thing",
        ["thing (broken 1.0)", "ZeroDivisionError", "broken.py:3"],
    ),
    "no_plugin_at_all": ("Thing = 3", "Thing", ["thing: expected a plugin", "comes from broken 1.0"]),
}


@pytest.mark.parametrize("name", PLUGINS)
def test_a_wrong_plugin_is_refused_by_name(project, install, name):
    code, attribute, words = PLUGINS[name]
    install("broken", code, hooks=[f"thing = broken:{attribute}"])
    assert_refused(project.hookline("train", "run.yaml", "hooks+=thing"), *words)
    assert not project.runs()


def test_a_hook_enabled_as_a_writer_is_refused(project, install):
    code = "from hookline import HookBase\nclass Thing(HookBase):\n    def after_step(self): ..."
    install("confused", code, writers=["thing = confused:Thing"])
    assert_refused(
        project.hookline("train", "run.yaml", "writers+=thing"),
        "writers.thing",
        "EventWriter",
        "confused 1.0",
    )
    assert not project.runs()


def test_a_writer_whose_methods_cannot_be_called_is_refused(project, install):
    code = "from hookline import EventWriter\nclass Thing(EventWriter):\n    def write(self): ..."
    install("wrong", code, writers=["thing = wrong:Thing"])
    result = project.hookline("train", "run.yaml", "writers+=thing")
    assert_refused(result, "writers.thing.write", "takes 1 argument beside self", "wrong 1.0")
    assert not project.runs()


def test_two_distributions_of_one_name_are_told_apart_by_their_full_name(project, install):
    code = "from hookline import HookBase\nclass Thing(HookBase):\n    def before_train(self): print('{}')"
    install("one", code.format("I am one"), hooks=["thing = one:Thing"])
    install("two", code.format("I am two"), hooks=["thing = two:Thing"])
    assert_refused(
        project.hookline("train", "run.yaml", "hooks+=thing"), "one:thing", "two:thing", "full form"
    )
    result = project.hookline("train", "run.yaml", "hooks+=two:thing")
    assert result.exit_code == 0, result.output
    assert "I am two" in result.output


def test_a_broken_plugin_that_is_not_enabled_harms_nobody(project, install):
    install("broken", "raise RuntimeError('imported')", hooks=["thing = broken:Thing"])
    assert project.hookline("train", "run.yaml").exit_code == 0


def test_an_error_in_a_plugin_keeps_its_traceback_and_names_it(project, install):
    code = "from hookline import HookBase\nclass Thing(HookBase):\n    def after_step(self): {}['gone']"
    install("failing", code, hooks=["thing = failing:Thing"], version="2.3")
    result = project.hookline("train", "run.yaml", "hooks+=thing")
    assert result.exit_code == 1
    assert isinstance(result.exception, KeyError)
    assert result.exception.__notes__ == [
        "Raised by plugin 'thing' (failing 2.3), hook after_step, iteration 0"
    ]
    log = (project.runs()[0] / "log.txt").read_text()
    assert "KeyError: 'gone'" in log
