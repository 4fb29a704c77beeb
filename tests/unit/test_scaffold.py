"""A new plugin: its names, what is written, and that nothing is ever overwritten or left behind."""

import ast
import builtins
import json
import keyword
import re
import sys
from pathlib import Path
from types import ModuleType
from zipfile import ZipFile

import pytest

import hookline
from hookline.catalog import installed
from hookline.errors import PluginError
from hookline.scaffold import Names, new_plugin, plugin_name
from hookline.scaffold.names import MAX_LENGTH
from hookline.scaffold.write import hookline_range, rendered

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KINDS = [["hook"], ["writer"], ["hook", "writer"]]
LONGEST = "a" * MAX_LENGTH
ODD = [
    "annotated", "class", "csv-writer", "event", "event-writer", "events", "field", "hook-base", "none", "period",
    "print", "run", "simple-trainer", "value-error", "writer",
]  # fmt: skip


def text_of(name, kinds):
    return {
        path.as_posix(): text for path, text in rendered(Names(name, kinds), hookline.__version__).items()
    }


class TestNames:
    def test_every_part_is_named_after_the_plugin(self):
        names = Names("grad-norm", ["hook", "writer"])
        assert names.distribution == "hookline-grad-norm"
        assert names.package == "hookline_grad_norm"
        assert (names.hook_class, names.writer_class) == ("GradNorm", "GradNormWriter")

    @pytest.mark.parametrize("name", ODD)
    def test_no_class_hides_another_name(self, name):
        texts = text_of(name, ["hook", "writer"])
        names = Names(name, ["hook", "writer"])
        assert names.hook_class != names.writer_class
        for kind, made in (("hook", names.hook_class), ("writer", names.writer_class)):
            tree = ast.parse(texts[f"src/{names.package}/{kind}.py"])
            imported = {
                alias.name
                for node in ast.walk(tree)
                if isinstance(node, (ast.Import, ast.ImportFrom))
                for alias in node.names
            }
            assert made.isidentifier()
            assert not keyword.iskeyword(made)
            assert made not in imported | set(dir(builtins))

    def test_a_name_says_writer_once(self):
        assert Names("csv-writer", ["writer"]).writer_class == "CsvWriter"

    @pytest.mark.parametrize("given", ["demo", "hookline-demo", "a", "conv2d", "a-2", "class", "re", LONGEST])
    def test_plain_names_are_taken_without_their_prefix(self, given):
        assert plugin_name(given, ["hook"]) == given.removeprefix("hookline-")

    @pytest.mark.parametrize(
        ("given", "hint"),
        [
            ("", "got ''.$"),
            ("hookline-", "got 'hookline-'.$"),
            ("Demo", "Did you mean 'demo'"),
            ("gradNorm", "Did you mean 'grad-norm'"),
            ("grad_norm", "Did you mean 'grad-norm'"),
            ("hookline_demo", "Did you mean 'demo'"),
            ("a b", "Did you mean 'a-b'"),
            ("a--b", "Did you mean 'a-b'"),
            ("-a", "Did you mean 'a'"),
            ("plugins/demo", "Write 'plugins new demo --dir plugins'"),
            ("/tmp/x/demo", "Write 'plugins new demo --dir /tmp/x'"),
            ("größe", "got 'größe'.$"),
            ("2d", "got '2d'.$"),
            ("..", "got '..'.$"),
            ("demo\n", "Did you mean 'demo'"),
            (LONGEST + "a", "got 'a+'.$"),
        ],
    )
    def test_other_names_are_refused_with_what_was_meant(self, given, hint):
        with pytest.raises(
            PluginError, match=f"NAME: expected lower-case words joined by '-'.*{hint}"
        ) as caught:
            plugin_name(given, ["hook"])
        assert caught.value.exit_code == 2

    @pytest.mark.parametrize("given", ["true", "null", "on", "off", "yes", "no"])
    def test_a_name_that_yaml_reads_as_something_else_is_refused(self, given):
        with pytest.raises(PluginError, match=f"expected a name that is a word to YAML, got '{given}'"):
            plugin_name(given, ["hook"])

    def test_a_name_that_pytest_takes_for_a_test_is_refused(self):
        with pytest.raises(PluginError, match="expected a name that does not begin with 'test'"):
            plugin_name("test-time", ["hook"])

    @pytest.mark.parametrize(
        ("given", "kind", "said"),
        [
            (
                "checkpoint",
                "hook",
                r"no installed hook has, got 'checkpoint'\. hookline \S+ has one\. Choose another\.$",
            ),
            (
                "json",
                "writer",
                "no installed writer has.*hookline-json .* has one.*or run 'pip uninstall hookline-json'",
            ),
            ("json", "hook", "no installed distribution has.*hookline-json is installed"),
        ],
    )
    def test_a_name_that_is_installed_is_refused(self, given, kind, said):
        with pytest.raises(PluginError, match=said):
            plugin_name(given, [kind])

    def test_a_name_that_is_published_is_refused(self, monkeypatch):
        monkeypatch.setattr("hookline.scaffold.names.installed_plugins", list)
        monkeypatch.setattr("hookline.scaffold.names.all_metadata", list)
        with pytest.raises(
            PluginError, match="no published plugin has, got 'wandb'. hookline-wandb is published"
        ):
            plugin_name("wandb", ["hook"])

    def test_a_hook_may_have_the_name_of_a_writer_of_another_distribution(self, monkeypatch, tmp_path):
        info = tmp_path / "other-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[hookline.writers]\ndots = other:Dots\n")
        monkeypatch.syspath_prepend(tmp_path)
        installed.cache_clear()
        assert plugin_name("dots", ["hook"]) == "dots"
        with pytest.raises(PluginError, match="no installed writer has, got 'dots'. other 1.0 has one"):
            plugin_name("dots", ["hook", "writer"])
        installed.cache_clear()


class TestTemplate:
    @pytest.mark.parametrize("kinds", KINDS)
    def test_a_plugin_has_the_files_of_its_kinds(self, kinds):
        files = set(text_of("demo", kinds))
        shared = {"README.md", "CHANGELOG.md", "pyproject.toml", ".gitignore", ".github/workflows/test.yml"}
        shared |= {"src/hookline_demo/__init__.py", "src/hookline_demo/py.typed"}
        of_kind = {f"src/hookline_demo/{kind}.py" for kind in kinds} | {
            f"tests/test_{kind}.py" for kind in kinds
        }
        assert files == shared | of_kind

    @pytest.mark.parametrize("name", ["demo", LONGEST])
    @pytest.mark.parametrize("kinds", KINDS)
    def test_nothing_of_the_template_is_left(self, name, kinds):
        for path, text in text_of(name, kinds).items():
            assert not re.search(r"<<|>>|^(hook|writer)\|", text, re.MULTILINE), path
            assert text == "" or (text.endswith("\n") and not text.endswith("\n\n")), path
            for number, line in enumerate(text.splitlines(), 1):
                assert len(line) <= 110 or not path.endswith(".py"), f"{path}:{number}"
                assert line == line.rstrip(), f"{path}:{number}"

    @pytest.mark.parametrize(("kind", "other"), [("hook", "writer"), ("writer", "hook")])
    def test_a_plugin_of_one_kind_does_not_speak_of_the_other(self, kind, other):
        texts = text_of("demo", [kind])
        for path in ("README.md", "CHANGELOG.md", "pyproject.toml", "src/hookline_demo/__init__.py"):
            assert not re.search(rf"\b{other}s?\b", texts[path].replace("[json, demo]", "")), path

    @pytest.mark.parametrize("kinds", KINDS)
    def test_the_entry_points_lead_to_the_classes(self, kinds):
        texts = text_of("grad-norm", kinds)
        points = tomllib.loads(texts["pyproject.toml"])["project"]["entry-points"]
        classes = {"hook": "GradNorm", "writer": "GradNormWriter"}
        assert points == {
            f"hookline.{kind}s": {"grad-norm": f"hookline_grad_norm:{classes[kind]}"} for kind in kinds
        }
        init = texts["src/hookline_grad_norm/__init__.py"]
        for kind in kinds:
            assert f"class {classes[kind]}(" in texts[f"src/hookline_grad_norm/{kind}.py"]
            assert f"from hookline_grad_norm.{kind} import {classes[kind]}\n" in init
        assert init.endswith(f"\n__all__ = {json.dumps([classes[kind] for kind in kinds])}\n")

    def test_the_hook_keeps_no_run_from_replaying_iterations(self, make_trainer, monkeypatch):
        name = "hookline_demo.hook"
        monkeypatch.setitem(sys.modules, name, module := ModuleType(name))
        exec(text_of("demo", ["hook"])["src/hookline_demo/hook.py"], module.__dict__)
        trainer = make_trainer(module.Demo(), kernel="graph")
        trainer.train(0, 1)
        assert trainer.kernel.forbidden == ""

    @pytest.mark.parametrize("kind", ["hook", "writer"])
    def test_the_readme_lists_every_option_with_its_default(self, kind):
        texts = text_of("demo", [kind])
        (init,) = [
            node
            for node in ast.walk(ast.parse(texts[f"src/hookline_demo/{kind}.py"]))
            if isinstance(node, ast.FunctionDef) and node.name == "__init__"
        ]
        defaults = [str(ast.literal_eval(default)) for default in init.args.defaults]
        options = dict(zip([argument.arg for argument in init.args.args[1:]], defaults, strict=True))
        rows = re.findall(r"^\| `(\w+)` \| `?(.+?)`? \|", texts["README.md"], re.MULTILINE)
        assert {name: default.lower() for name, default in options.items()} == dict(rows)

    def test_it_needs_the_hookline_that_made_it_and_no_later_promise(self):
        (first, *_) = tomllib.loads(text_of("demo", ["hook"])["pyproject.toml"])["project"]["dependencies"]
        assert first == f"hookline{hookline_range(hookline.__version__)}"

    @pytest.mark.parametrize(
        ("version", "expected"),
        [("0.1.0", ">=0.1,<0.2"), ("0.9.3rc1", ">=0.9,<0.10"), ("1.4.2", ">=1.4,<2"), ("2.0", ">=2.0,<3")],
    )
    def test_the_range_ends_where_names_may_change(self, version, expected):
        assert hookline_range(version) == expected

    def test_the_template_is_in_the_wheel(self, tmp_path):
        builder = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(Path(__file__).parents[2]))
        (wheel,) = builder.build(directory=str(tmp_path), versions=["standard"])
        inside = {
            name for name in ZipFile(wheel).namelist() if name.startswith("hookline/scaffold/template/")
        }
        template = Path(hookline.__file__).parent / "scaffold/template"
        assert inside == {
            f"hookline/scaffold/template/{path.relative_to(template).as_posix()}"
            for path in template.rglob("*")
            if path.is_file()
        }


class TestNewPlugin:
    def test_the_files_are_written_and_returned(self, tmp_path):
        names = Names("demo", ["hook", "writer"])
        files = new_plugin(names, tmp_path, "0.1.0")
        assert {path.relative_to(tmp_path / "demo"): path.read_text() for path in files} == rendered(
            names, "0.1.0"
        )
        assert sorted(files) == sorted(path for path in tmp_path.rglob("*") if path.is_file())

    @pytest.mark.parametrize("there", ["file", "folder", "link"])
    def test_what_is_there_is_never_overwritten(self, tmp_path, there):
        place = tmp_path / "demo"
        if there == "file":
            place.write_text("mine")
        elif there == "folder":
            place.mkdir()
        else:
            place.symlink_to(tmp_path / "nowhere")
        with pytest.raises(
            PluginError, match="expected a name that nothing has in that folder, got .*demo'. Choose"
        ):
            new_plugin(Names("demo", ["hook"]), tmp_path, "0.1.0")
        assert list(tmp_path.rglob("*")) == [place]
        assert there != "file" or place.read_text() == "mine"

    def test_a_place_that_cannot_be_written_to_is_named(self, tmp_path, monkeypatch):
        def refuse(*args, **kwargs):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", refuse)
        with pytest.raises(
            PluginError, match=f"--dir: expected a folder that .* got '{tmp_path}'. Permission denied."
        ):
            new_plugin(Names("demo", ["hook"]), tmp_path, "0.1.0")

    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
    def test_what_fails_half_way_leaves_nothing_behind(self, tmp_path, monkeypatch, error):
        def fail_late(path, text, real=Path.write_text, **options):
            real(path, text, **options)
            if path.name == "pyproject.toml":
                raise error

        monkeypatch.setattr(Path, "write_text", fail_late)
        with pytest.raises((PluginError, KeyboardInterrupt), match="No space left on device|^$"):
            new_plugin(Names("demo", ["hook"]), tmp_path, "0.1.0")
        assert list(tmp_path.iterdir()) == []
