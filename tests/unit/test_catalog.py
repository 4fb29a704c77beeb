"""What is installed is found whatever state it is in, and nothing of it is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from hookline.catalog import (
    HOOKS,
    WRITERS,
    all_metadata,
    find,
    installed,
    installed_plugins,
    local_plugin,
    metadata,
    module_spec,
    normalized,
    unmet,
)
from hookline.errors import PluginError

FINE = "[hookline.hooks]\nhello = hello:Hello\n"


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    installed.cache_clear()
    yield tmp_path
    installed.cache_clear()


def distribution(site, folder="hookline_hello-1.0.dist-info", **files):
    """Make a folder of metadata; a file given as None is left out."""
    info = site / folder
    info.mkdir(parents=True)
    name, _, version = folder.removesuffix(".dist-info").partition("-")
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    for file, content in {"METADATA": metadata, "entry_points.txt": FINE, **files}.items():
        if content is not None:
            (info / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    installed.cache_clear()
    return info


def hello():
    """Return the plugins that the fake distributions bring."""
    return [plugin for plugin in installed_plugins() if plugin.name == "hello"]


def test_a_plugin_is_described_by_its_metadata(site):
    metadata = "\n".join(
        [
            "Name: Hookline.Hello",
            "Version: 1.0",
            "Summary: Says hello",
            "  twice.",
            "Requires-Dist: hookline >=0.1",
        ]
    )
    distribution(site, METADATA=f"{metadata}\n\nSummary: not this one\n")
    (plugin,) = hello()
    assert (plugin.kind, plugin.distribution, plugin.version) == ("hook", "Hookline.Hello", "1.0")
    assert (plugin.summary, plugin.requires, plugin.editable) == ("Says hello twice.", ">=0.1", False)
    assert (plugin.location, plugin.value) == (str(site), "hello:Hello")
    assert plugin.qualified_name == "Hookline.Hello:hello"


def test_of_several_plugins_each_has_the_first_line_of_its_docstring(site):
    points = "[hookline.hooks]\nhello = hello.deep:Hello\nother = hello.deep:make\n[hookline.writers]\nwrite = hello\n"
    distribution(site, **{"entry_points.txt": points})
    (site / "hello").mkdir()
    (site / "hello" / "__init__.py").write_text('"""Writes hello."""\nraise RuntimeError("imported")\n')
    (site / "hello" / "deep.py").write_text(
        "class Helloo:\n    '''Not this.'''\n\n"
        "class Hello(\n    object,\n):\n    r'''Says hello.\n\n    More.\n    '''\n\n"
        'def make(x: tuple[int, ...] = (1, 2)) -> Hello:\n    """Makes one."""\n'
    )
    found = {plugin.name: plugin.summary for plugin in installed_plugins()}
    assert (found["hello"], found["other"], found["write"]) == ("Says hello.", "Makes one.", "Writes hello.")


@pytest.mark.parametrize(
    "files",
    [
        {"METADATA": None},
        {"METADATA": b"Name: hookline_hello\nVersion: 1.0\nSummary: \xff\xfe\n"},
        {"METADATA": ""},
        {"RECORD": None, "direct_url.json": "{not json"},
        {"direct_url.json": "[]"},
        {"direct_url.json": '{"url": "http://[", "dir_info": {"editable": true}}'},
        {"METADATA": "Name: hookline_hello\nVersion: 1.0\nRequires-Dist: !! no requirement\n"},
    ],
    ids=repr,
)
def test_a_plugin_is_found_whatever_its_other_metadata_is(site, files):
    distribution(site, **files)
    (plugin,) = hello()
    assert (plugin.distribution, plugin.version, plugin.requires) == ("hookline_hello", "1.0", "")
    assert find("hookline-hello:hello", HOOKS, "hooks.hello").value == "hello:Hello"


@pytest.mark.parametrize(
    "points", ["[hookline.hooks]\nno equals sign\n", b"[hookline.hooks]\nx\xff = a:b\n", "", None]
)
def test_entry_points_that_cannot_be_read_hide_no_others(site, points):
    distribution(site, "bad-1.0.dist-info", **{"entry_points.txt": points})
    distribution(site)
    assert len(hello()) == 1
    assert find("json", WRITERS, "writers.json").name == "json"


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ("[console_scripts]\n\nfoo\n", "entry_points.txt: line 3, 'foo', is no 'name = module:Name'"),
        (b"[a]\nx\xff = a:b\n", "entry_points.txt: UnicodeDecodeError: "),
        ("no section\n# x\n[a]\n# foo\nx = a:b\n", ""),
        (None, ""),
    ],
)
def test_a_distribution_says_why_its_entry_points_cannot_be_read(site, points, said):
    distribution(site, "any-1.0.dist-info", **{"entry_points.txt": points})
    (found,) = [one for one in all_metadata() if one.name == "any"]
    assert found.hidden.startswith(said)
    assert bool(found.hidden) == bool(said)


def test_a_missing_name_that_an_unreadable_distribution_may_bring_is_told(site):
    distribution(site, **{"entry_points.txt": "[hookline.hooks]\nhello\n"})
    for use in ("hello", "hookline-hello:hello"):
        with pytest.raises(PluginError) as caught:
            find(use, HOOKS, "hooks.hello")
        assert "hookline_hello is installed, but entry_points.txt: line 2, 'hello'" in str(caught.value)
        assert "hookline plugins doctor" in str(caught.value)


def test_one_name_twice_in_one_distribution_is_one_plugin(site):
    distribution(site, **{"entry_points.txt": f"{FINE}hello = hello:Other\n"})
    (plugin,) = hello()
    assert plugin.value == find("hello", HOOKS, "hooks.hello").value == "hello:Other"


def test_modules_in_nested_namespace_packages_are_found_without_an_import(site):
    (site / "ns_pkg" / "sub").mkdir(parents=True)
    (site / "ns_pkg" / "sub" / "mod.py").write_text("raise RuntimeError('imported')")
    assert module_spec("ns_pkg.sub.mod").origin == str(site / "ns_pkg" / "sub" / "mod.py")
    assert module_spec("ns_pkg.sub.other") is None
    assert "ns_pkg" not in sys.modules


def test_an_egg_info_that_is_a_file_is_complete(site):
    (site / "hookline_old-1.2-py3.11.egg-info").write_text("Name: hookline-old\nVersion: 1.2\n")
    (old,) = [one for one in all_metadata() if one.name == "hookline-old"]
    assert (old.version, old.is_complete) == ("1.2", True)


def test_what_an_interrupted_pip_left_behind_does_not_count(site):
    distribution(site, "~ookline_hello-1.0.dist-info")
    assert hello() == []
    distribution(site)
    assert find("hello", HOOKS, "hooks.hello").dist.version == "1.0"


@pytest.mark.parametrize("order", [list, reversed], ids=["as-found", "reversed"])
def test_of_two_folders_of_one_distribution_a_complete_one_counts(site, monkeypatch, order):
    distribution(site, "hookline_hello-0.9.dist-info", METADATA=None)
    distribution(site, "hookline_hello-1.0.dist-info")
    found = [one for one in metadata.distributions() if "hookline_hello" in str(one._path)]
    monkeypatch.setattr(metadata, "distributions", lambda: order(found))
    installed.cache_clear()
    assert [plugin.version for plugin in hello()] == ["1.0"]


def test_the_first_on_the_path_hides_the_others(site, monkeypatch, tmp_path_factory):
    distribution(site, "hookline_hello-1.0.dist-info")
    other = tmp_path_factory.mktemp("other")
    distribution(other, "hookline_hello-2.0.dist-info")
    monkeypatch.setattr(sys, "path", [*sys.path, str(other)])
    installed.cache_clear()
    assert [plugin.version for plugin in hello()] == ["1.0"]


def test_one_folder_that_the_path_names_twice_counts_once(site, monkeypatch, tmp_path_factory):
    distribution(site)
    link = tmp_path_factory.mktemp("links") / "lib64"
    link.symlink_to(site)
    monkeypatch.setattr(sys, "path", [*sys.path, str(link)])
    assert [one.name for one in all_metadata()].count("hookline_hello") == 1


def test_editable_installations_are_told(site):
    origin = {"url": "file:///some%20where", "dir_info": {"editable": True}}
    distribution(site, **{"direct_url.json": json.dumps(origin)})
    assert hello()[0].editable
    info = site / "src" / "old.egg-info"
    info.mkdir(parents=True)
    (info / "PKG-INFO").write_text("Name: old\nVersion: 3\n")
    (info / "requires.txt").write_text("hookline<5\n\n[dev]\npytest\n")
    (info / "entry_points.txt").write_text(FINE.replace("hello =", "old ="))
    sys.path.insert(0, str(site / "src"))
    installed.cache_clear()
    (old,) = [plugin for plugin in installed_plugins() if plugin.name == "old"]
    assert (old.editable, old.version, old.requires) == (True, "3", "<5")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_hides_no_others(site):
    info = distribution(site, "secret-1.0.dist-info")
    info.chmod(0)
    distribution(site)
    assert len(hello()) == 1
    info.chmod(0o700)


def test_equal_names_are_an_error_that_names_both(site):
    distribution(site)
    distribution(site, "other_hello-2.0.dist-info")
    with pytest.raises(PluginError) as caught:
        find("hello", HOOKS, "hooks.hello (run.yaml:3)")
    assert "hookline_hello:hello, other_hello:hello" in str(caught.value)
    assert find("Other-Hello:hello", HOOKS, "hooks.hello").dist.version == "2.0"


def test_a_local_file_is_no_distribution(tmp_path):
    plugin = local_plugin("./my.py:Mine", tmp_path)
    assert (plugin.name, plugin.distribution, plugin.value) == ("Mine", "", f"{tmp_path}/my.py:Mine")
    assert plugin.source == f"{tmp_path}/my.py"


def test_names_of_distributions_are_compared_as_indexes_do():
    assert normalized("Hookline._-EMA") == normalized("hookline-ema")


def test_what_is_not_met_is_told_with_what_is_there():
    met = ["hookline>=0.0.1", "torch", "nothing; extra == 'dev'", "nothing; python_version < '3'", "!!"]
    assert unmet(met) == []
    newer, missing = unmet(["hookline >=9", "Not.There ~=1.2"])
    assert str(newer).startswith("hookline>=9, and 0.")
    assert str(missing) == "not-there~=1.2, and it is not installed"


def test_what_is_required_from_a_url_is_told_with_it():
    (missing,) = unmet(["Not.There @ git+https://x/y"])
    assert missing.requirement == "not-there @ git+https://x/y"


def test_a_development_version_meets_what_it_precedes(site):
    distribution(site, "other-2.0.dev3.dist-info", METADATA="Name: other\nVersion: 2.0.dev3\n")
    assert unmet(["other>=1.5"]) == []


def test_looking_at_what_is_installed_imports_nothing_heavy_and_no_plugin(site):
    distribution(site)
    (site / "hello.py").write_text("raise RuntimeError('imported')")
    code = (
        "import sys; from hookline.catalog import installed_plugins as f; assert f(); "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(site)},
    )
    heavy = {"torch", "numpy", "pydantic", "pluggy", "rich", "yaml", "hello", "hookline_json"}
    assert not set(done.stdout.split()) & heavy
