"""YAML is read safely, and what is refused is named with its line."""

from __future__ import annotations

import pytest

from hookline.config import load_config
from hookline.config.source import read_yaml
from hookline.config.tree import origins, plain
from hookline.errors import ConfigError


def read(text: str):
    return read_yaml(text, lambda line: f"run.yaml:{line}", "run.yaml")


def refused(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return [str(problem) for problem in caught.value.problems]


def test_every_value_has_the_line_of_its_key():
    tree = read("a:\n  b: 1\n  c:\n    - x\n    - y: 2\n\nd: 3\n")
    assert dict(origins(tree)) == {
        (): "run.yaml",
        ("a",): "run.yaml:1",
        ("a", "b"): "run.yaml:2",
        ("a", "c"): "run.yaml:3",
        ("a", "c", "0"): "run.yaml:4",
        ("a", "c", "1"): "run.yaml:5",
        ("a", "c", "1", "y"): "run.yaml:5",
        ("d",): "run.yaml:7",
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-2E+4", -20000.0),
        (".5e1", 5.0),
        ("1.5e2", 150.0),
        ("'1e-3'", "1e-3"),
        ("1e-3x", "1e-3x"),
        ("12", 12),
        ("no", False),
        ("~", None),
        ("2026-01-31", "2026-01-31"),
        ("3 epochs", "3 epochs"),
        ("!!str 5", "5"),
        ("{no: 1, null: 2, 7: 3}", {"no": 1, "null": 2, 7: 3}),
    ],
)
def test_a_scalar_is_read_as_a_person_reads_it(text, value):
    found = plain(read(text))
    assert found == value
    assert type(found) is type(value)


def test_a_key_twice_is_refused_with_both_lines():
    assert refused("train:\n  max_iter: 1\n  threads: 1\n  max_iter: 2\n") == [
        "train.max_iter (run.yaml:4): expected each key once, got 'max_iter'. "
        "The first is at run.yaml:2. Remove one of them."
    ]


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("x: !!python/object/apply:os.system ['true']", "!!python/object/apply:os.system"),
        ("x: !!python/name:os.system ''", "!!python/name:os.system"),
        ("x: !mine 3", "!mine"),
        ("x: !!set {a}", "!!set"),
        ("x: !!binary aGk=", "!!binary"),
    ],
)
def test_a_tag_that_makes_an_object_is_refused(text, tag):
    assert refused(text) == [
        f"x (run.yaml:1): expected plain YAML, got {tag!r}. "
        "Remove the tag: a config holds plain data, and names code with `target`."
    ]


def test_a_tag_of_a_key_is_refused_too():
    assert "got '!mine'" in refused("!mine x: 3")[0]


def test_a_value_that_does_not_fit_its_tag_is_refused():
    assert refused("a: !!int ten") == [
        "a (run.yaml:1): expected a value that its tag !!int allows, got 'ten'."
    ]


def test_several_problems_of_a_file_come_together():
    assert len(refused("a: !x 1\nb: !y 2\nb: 3\n")) == 3


def test_an_alias_is_a_value_of_its_own():
    tree = read("a: &a {x: 1}\nb: *a\n")
    tree.value["b"].value["x"].value = 2
    assert plain(tree) == {"a": {"x": 1}, "b": {"x": 2}}


def test_a_merge_key_brings_in_what_is_not_there():
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: *a, x: 3}\nd: {x: 4, <<: [*b, *a]}\ne: {<<: *b, <<: *a}\n"
    data = plain(read(text))
    assert data["c"] == {"x": 3, "y": 1}
    assert data["d"] == {"x": 4, "y": 2, "z": 2}
    assert data["e"] == {"x": 1, "y": 2, "z": 2}


def test_a_merge_of_something_else_is_refused():
    assert refused("a: {<<: 3}") == [
        "a (run.yaml:1): expected mappings to merge after <<, got 'another value'."
    ]


def test_aliases_may_expand_to_a_thousand_values_and_no_more():
    ten = ", ".join("x" * 9)
    text = f"a: &a [{ten}]\nb: [{', '.join(['*a'] * 100)}]\n"  # 100 lists of nine: 1,000 values
    assert len(plain(read(text))["b"]) == 100
    assert refused(text + "c: *a\n") == [
        "run.yaml:1: expected aliases that expand to at most 1,000 values, got 1001."
    ]


def test_an_alias_bomb_is_refused():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    assert "aliases that expand to at most 1,000 values" in refused("\n".join(lines))[0]


@pytest.mark.parametrize(
    "text", ["x: &x [*x]", "x: &x {y: *x}", f"a: {'[' * 150}{']' * 150}", "[" * 3000, "- " * 3000]
)
def test_nesting_too_deep_is_refused(text):
    assert "at most 100 levels of nesting" in refused(text)[0]


def test_a_hundred_levels_are_read():
    assert plain(read(f"a: {'[' * 100}{']' * 100}"))
    assert "at most 100 levels of nesting, got 101." in refused(f"a: {'[' * 101}{']' * 101}")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: {a: 1\n", "run.yaml:1: expected valid YAML, got 'run: {a: 1'. YAML says: expected ',' or '}'"),
        ("a: 1\nb: *c\n", "run.yaml:2: expected valid YAML, got 'b: *c'. YAML says: found undefined alias"),
        ("a: 1\n---\nb: 2\n", "run.yaml:2: expected valid YAML, got '---'. YAML says: but found another"),
        ("run:\n\ta: 1\n", "run.yaml:2: expected valid YAML, got 'a: 1'. YAML says: found character '\\t'"),
        ("a: b: c\n", "run.yaml:1: expected valid YAML, got 'a: b: c'. YAML says: mapping values"),
        ("a: \x00", "run.yaml: expected valid YAML, got 'unacceptable character #x0000"),
        ("? [1]\n: 2\n", "run.yaml:1: expected a key that is a word or a number, got 'a list or mapping'."),
    ],
)
def test_what_is_no_yaml_is_shown_with_its_line(text, message):
    assert refused(text)[0].startswith(message)


def test_a_tab_is_explained():
    assert refused("run:\n\ta: 1\n")[0].endswith("Indent with spaces.")


@pytest.mark.parametrize(
    ("content", "got"), [(b"", "nothing"), (b"# only\n", "nothing"), (b"- a\n", "['a']")]
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path, content, got):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    rule = "a mapping with run, optimizer, train and the other sections"
    assert str(caught.value) == f"{path}: expected {rule}, got {got}."


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes("run: {name: größe}".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"run\.yaml: expected a UTF-8 file that can be read, got .*0xf6"):
        load_config(path)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes("\ufeffrunn: 1".encode())
    with pytest.raises(ConfigError, match=r"runn \(.*run\.yaml:1\).* Did you mean 'run'\?"):
        load_config(path)


def test_a_file_that_is_missing_is_refused_with_those_that_are_there(tmp_path):
    (tmp_path / "run.yaml").touch()
    (tmp_path / "other.yml").touch()
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "rum.yaml")
    assert str(caught.value) == (
        f"{tmp_path}/rum.yaml: expected a YAML file, got 'No such file or directory'. "
        f"YAML files in {tmp_path}: other.yml, run.yaml. Did you mean 'run.yaml'?"
    )


def test_a_directory_is_refused_with_the_files_in_it(tmp_path):
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ConfigError, match=r"got 'Is a directory'. YAML files in .*: config.yaml\."):
        load_config(tmp_path)
