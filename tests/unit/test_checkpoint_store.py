"""A checkpoint is there whole or not at all, and nothing that is not as it was written is ever loaded."""

import ast
import errno
import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from hookline import checkpoint
from hookline.checkpoint import (
    Ledger,
    advance_pointer,
    check_state,
    discard_newer,
    load,
    manifest,
    newest_valid,
    outline,
    pointers,
    read_pointer,
    resolve,
    retain,
    retention,
    save,
    verify,
    write_pointer,
    writing,
)
from hookline.errors import CheckpointError, RunError


def state_of(iteration):
    return {
        "model": {"weight": torch.full((3, 2), float(iteration)), "bias": torch.zeros(2)},
        "hooks": {"evaluate": {"best": (iteration, 0.5)}},
        "rng": [np.arange(5, dtype=np.uint32) + iteration],
    }


def assert_holds(path, iteration):
    loaded = load(path)
    assert list(loaded) == ["hooks", "model", "rng"]
    assert torch.equal(loaded["model"]["weight"], torch.full((3, 2), float(iteration)))
    assert loaded["hooks"] == {"evaluate": {"best": (iteration, 0.5)}}
    assert loaded["rng"][0].tolist() == [iteration + i for i in range(5)]


def names_in(root):
    return sorted(path.name for path in root.iterdir())


@pytest.fixture
def root(tmp_path):
    return tmp_path / "run" / "checkpoints"


def reseal(path, change):
    """Rewrite the manifest of ``path`` as somebody would who knows how its checksum is made."""
    data = json.loads((path / "manifest.json").read_text())
    del data["sha256"]
    change(data)
    (path / "manifest.json").write_bytes(manifest.sealed(data))


class TestLayout:
    def test_a_checkpoint_is_a_flat_directory_with_json_and_safetensors(self, root):
        path = save(root, 499, state_of(499))
        assert path == root / "iter_0000499"
        assert names_in(path) == [
            "hooks.json",
            "manifest.json",
            "model.json",
            "model.safetensors",
            "rng.json",
            "rng.safetensors",
        ]
        assert names_in(root) == ["iter_0000499", "latest"]
        assert (root / "latest").read_text() == "iter_0000499\n"

    def test_the_manifest_lists_every_other_file_with_size_and_checksum(self, root):
        path = save(root, 7, state_of(7), generation=3)
        found = verify(path)
        assert (found.iteration, found.generation, found.world_size) == (7, 3, 1)
        assert found.components == ["hooks", "model", "rng"]
        assert set(found.files) == set(names_in(path)) - {"manifest.json"}
        for name, (size, digest) in found.files.items():
            content = (path / name).read_bytes()
            assert (size, digest) == (len(content), hashlib.sha256(content).hexdigest())

    def test_two_saves_have_different_ids(self, root):
        first = verify(save(root, 1, state_of(1))).save_id
        assert verify(save(root, 1, state_of(1))).save_id != first

    def test_model_weights_alone_are_a_file_that_others_read(self, root):
        model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
        path = save(root, 1, {"model": model.state_dict()})
        weights = safetensors.torch.load_file(path / "model.safetensors")
        assert weights.keys() == model.state_dict().keys()
        assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())

    def test_a_model_with_tied_weights_loads_from_its_file_and_from_the_checkpoint(self, root):
        class Tied(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding = torch.nn.Embedding(4, 3)
                self.head = torch.nn.Linear(3, 4, bias=False)
                self.head.weight = self.embedding.weight

        saved, other = Tied(), Tied()
        path = save(root, 1, {"model": saved.state_dict()})
        assert (path / "model.safetensors").stat().st_size < 200
        assert safetensors.torch.load_model(other, path / "model.safetensors") == (set(), [])
        assert torch.equal(other.head.weight, saved.head.weight)
        loaded = load(path)["model"]
        assert loaded["head.weight"] is loaded["embedding.weight"]
        Tied().load_state_dict(loaded)

    def test_files_follow_the_umask(self, root):
        old = os.umask(0o027)
        try:
            path = save(root, 1, state_of(1))
        finally:
            os.umask(old)
        assert {stat.S_IMODE((path / name).stat().st_mode) for name in names_in(path)} == {0o640}

    def test_a_large_iteration_is_a_longer_name(self, root):
        save(root, 9_999_999, state_of(1))
        path = save(root, 12_345_678, state_of(2))
        assert path.name == "iter_12345678"
        assert newest_valid(root)[0] == path

    def test_equal_states_give_equal_files(self, root, tmp_path):
        one, two = save(root, 3, state_of(3)), save(tmp_path / "other", 3, state_of(3))
        for name in set(names_in(one)) - {"manifest.json"}:
            assert (one / name).read_bytes() == (two / name).read_bytes()


class TestLoad:
    def test_everything_comes_back(self, root):
        assert_holds(save(root, 4, state_of(4)), 4)

    def test_components_are_loaded_by_name(self, root):
        path = save(root, 4, state_of(4))
        assert list(load(path, ["model"])) == ["model"]
        assert load(path, ()) == {}

    def test_an_unknown_component_is_an_error_that_names_those_there(self, root):
        path = save(root, 4, state_of(4))
        with pytest.raises(CheckpointError, match=r"got 'optimiser'. It has hooks, model, rng"):
            load(path, ["optimiser"])

    def test_loaded_tensors_outlive_the_file(self, root):
        path = save(root, 4, state_of(4))
        loaded = load(path)["model"]
        with open(path / "model.safetensors", "r+b") as file:
            file.write(bytes(1000))
            file.truncate(10)
        shutil.rmtree(path)
        assert torch.equal(loaded["weight"], torch.full((3, 2), 4.0))
        assert loaded["weight"].untyped_storage().nbytes() == 24

    def test_nothing_is_unpickled(self, root, no_pickle):
        assert_holds(save(root, 4, state_of(4)), 4)

    def test_no_module_of_the_package_imports_a_pickle(self):
        files = sorted(Path(checkpoint.__file__).parent.glob("*.py"))
        assert len(files) >= 4
        for file in files:
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    assert not {alias.name for alias in node.names} & {"pickle", "shelve", "dill", "marshal"}
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save")}


class TestRefusal:
    @pytest.mark.parametrize("iteration", [-1, 1.0, True, "1", None])
    def test_an_iteration_is_a_whole_number(self, root, iteration):
        with pytest.raises(CheckpointError, match="a whole number >= 0"):
            save(root, iteration, state_of(0))

    @pytest.mark.parametrize(
        "name", ["", "manifest", "Manifest", "a/b", "..", ".hidden", "a.b", "a\0b", "x" * 65, 3]
    )
    def test_a_components_name_is_a_plain_file_name(self, root, name):
        with pytest.raises(CheckpointError, match="components: expected unique names"):
            save(root, 1, {name: 1})
        assert not root.exists()

    def test_names_that_differ_in_case_only_are_refused(self, root):
        with pytest.raises(CheckpointError, match="unique"):
            save(root, 1, {"model": 1, "Model": 2})

    def test_a_state_that_cannot_be_held_touches_no_file(self, root):
        save(root, 1, state_of(1))
        before = names_in(root)
        with pytest.raises(CheckpointError, match=r"checkpoint: hooks\.mine\.fn: expected .*function"):
            save(root, 2, {"model": {}, "hooks": {"mine": {"fn": lambda: 0}}})
        assert names_in(root) == before

    def test_a_state_is_looked_through_without_a_copy_and_refused_as_a_save_would(self, monkeypatch):
        tensors = {"complex": torch.ones(2, dtype=torch.complex64), "half": torch.ones(2, 2).half().T}
        with monkeypatch.context() as patch:
            for name in ("cpu", "contiguous"):
                patch.setattr(torch.Tensor, name, failing(AssertionError("copied")))
            check_state({"model": {**tensors, "tied": tensors["half"]}})
            with pytest.raises(CheckpointError, match=r"checkpoint: hooks\.mine: expected None, bool"):
                check_state({"hooks": {"mine": object()}})
        with pytest.raises(CheckpointError, match="unique names"):
            check_state({"manifest": {}})

    def test_too_much_plain_data_is_refused_before_it_is_written(self, root, monkeypatch):
        monkeypatch.setattr(writing, "MAX_JSON_BYTES", 1000)
        with pytest.raises(
            CheckpointError, match=r"checkpoint: hooks: expected at most 1000 bytes.*tensors or arrays"
        ):
            save(root, 1, {"hooks": "x" * 1000})
        assert not root.exists()

    def test_more_values_than_are_ever_read_again_are_refused(self, root, monkeypatch):
        monkeypatch.setattr(writing, "MAX_NODES", 100)
        save(root, 1, {"hooks": [0] * 99})
        with pytest.raises(
            CheckpointError, match="hooks: expected at most 100 values of plain data, got 101"
        ):
            save(root, 1, {"hooks": [0] * 100})

    def test_more_tensors_than_can_be_read_again_are_refused(self, root, monkeypatch):
        monkeypatch.setattr(writing.tensors, "MAX_HEAD_BYTES", 200)
        save(root, 1, {"hooks": [torch.zeros(1)] * 9})
        with pytest.raises(CheckpointError, match="hooks: expected at most 200 bytes to name its tensors"):
            save(root, 1, {"hooks": [torch.zeros(1) for _ in range(9)]})


def damages(path):
    """Every way of damage: its name and what does it."""
    other = path.parent.parent / "other"
    yield "a missing file", lambda: (path / "hooks.json").unlink(), "no hooks.json"
    yield "missing weights", lambda: (path / "model.safetensors").unlink(), "no model.safetensors"
    yield "no manifest", lambda: (path / "manifest.json").unlink(), "manifest.json: No such file"
    yield (
        "an empty directory",
        lambda: [file.unlink() for file in path.iterdir()],
        "manifest.json: No such file",
    )
    yield "an extra file", lambda: (path / "evil.json").write_text("1"), "evil.json as well"
    yield "an extra directory", lambda: (path / "sub").mkdir(), "sub as well"
    yield (
        "a longer file",
        lambda: (path / "rng.json").write_bytes((path / "rng.json").read_bytes() + b" "),
        "rng.json of .* bytes instead of",
    )
    yield (
        "an empty file",
        lambda: (path / "model.safetensors").write_bytes(b""),
        "model.safetensors of 0 bytes",
    )
    yield "an empty manifest", lambda: (path / "manifest.json").write_bytes(b""), "manifest.json that its own"
    yield "a manifest of zeros", lambda: (path / "manifest.json").write_bytes(bytes(900)), "its own checksum"
    yield "a manifest of another type", lambda: (path / "manifest.json").write_text("[1]"), "its own checksum"
    yield "a deep manifest", lambda: (path / "manifest.json").write_text("[" * 10**5), "its own checksum"
    yield "a manifest in another layout", lambda: relayout(path), "its own checksum"
    yield "a file for another", lambda: swap(path / "rng.json", path / "hooks.json"), "of .* bytes instead"
    yield (
        "another save's file",
        lambda: exchange(other, path, "model.safetensors"),
        "its checksum does not match",
    )
    yield (
        "another save's manifest",
        lambda: exchange(other, path, "manifest.json"),
        "the checkpoint of iteration 5",
    )
    yield "a link", lambda: link(path / "model.json"), "model.json that is a link or no file"
    yield "a linked manifest", lambda: link(path / "manifest.json"), "manifest.json that is a link or no file"
    yield (
        "a pipe",
        lambda: (os.unlink(path / "rng.json"), os.mkfifo(path / "rng.json")),
        "rng.json that is a link",
    )
    yield (
        "a directory for a file",
        lambda: (os.unlink(path / "rng.json"), os.mkdir(path / "rng.json")),
        "or no file",
    )


def relayout(path):
    file = path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text())))


def swap(one, two):
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)


def exchange(other, path, name):
    shutil.copy(save(other, 5, state_of(5)) / name, path / name)


def link(file):
    elsewhere = file.parent.parent / f"moved-{file.name}"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)


DAMAGES = [name for name, _, _ in damages(Path("x/y/z"))]


class TestDamage:
    @pytest.mark.parametrize("name", DAMAGES)
    def test_damage_is_found_and_said(self, root, name):
        path = save(root, 4, state_of(4))
        _, do, said = next(entry for entry in damages(path) if entry[0] == name)
        do()
        for read in (verify, load, resolve):
            with pytest.raises(
                CheckpointError, match=f"iter_0000004: expected every file as .* got .*{said}"
            ):
                read(path)

    def test_every_flipped_bit_is_found(self, root):
        path = save(root, 4, state_of(4))
        files = [(file, file.read_bytes()) for file in sorted(path.iterdir())]
        generator = random.Random(0)
        for trial in range(300):
            file, content = files[trial % len(files)]
            position, bit = generator.randrange(len(content)), generator.randrange(8)
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            file.write_bytes(flipped)
            with pytest.raises(CheckpointError):
                load(path)
            file.write_bytes(content)
        assert_holds(path, 4)

    def test_every_truncation_is_found(self, root):
        path = save(root, 4, state_of(4))
        for file in sorted(path.iterdir()):
            content = file.read_bytes()
            for size in {0, 1, len(content) // 2, len(content) - 1}:
                file.write_bytes(content[:size])
                with pytest.raises(CheckpointError):
                    load(path)
            file.write_bytes(content)
        assert_holds(path, 4)

    def test_a_renamed_checkpoint_is_not_taken_for_another_iteration(self, root):
        path = save(root, 4, state_of(4)).rename(root / "iter_0000009")
        with pytest.raises(CheckpointError, match="got the checkpoint of iteration 4"):
            verify(path)

    def test_a_copy_under_a_name_of_its_own_is_a_checkpoint(self, root, tmp_path):
        shutil.copytree(save(root, 4, state_of(4)), tmp_path / "my best")
        assert_holds(resolve(tmp_path / "my best"), 4)

    @pytest.mark.parametrize(
        "name", ["../evil.json", "/etc/passwd", "a/b.json", "..", "model.pkl", ".hidden.json"]
    )
    def test_a_forged_manifest_names_no_file_elsewhere(self, root, name):
        path = save(root, 4, state_of(4))
        reseal(path, lambda data: data["files"].update({name: [0, ""]}))
        with pytest.raises(CheckpointError, match=r"manifest.json that names"):
            verify(path)

    @pytest.mark.parametrize(
        "change",
        [
            lambda data: data.pop("files"),
            lambda data: data.pop("iteration"),
            lambda data: data.update(iteration="x"),
            lambda data: data.update(generation=1.5),
            lambda data: data.update(files={"a.json": [True, "x"]}),
            lambda data: data.update(files=[1]),
            lambda data: data.update(files={"a.json": [1]}),
            lambda data: data.update(files={"a.json": 1}),
        ],
    )
    def test_a_forged_manifest_of_another_shape_is_damage(self, root, change):
        path = save(root, 4, state_of(4))
        reseal(path, change)
        with pytest.raises(CheckpointError, match=r"manifest.json without"):
            verify(path)

    def test_another_format_is_said_not_called_damage(self, root):
        path = save(root, 4, state_of(4))
        reseal(path, lambda data: data.update(format=1))
        with pytest.raises(
            CheckpointError, match=r"expected format 2, got 1\. Use the hookline that wrote it"
        ):
            verify(path)

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("hooks.json", b"{"),
            ("hooks.json", b"\xff"),
            ("hooks.json", b"[" * 100_000),
            ("hooks.json", b"1" * 5000),
            ("hooks.json", b"[" + b"[]," * 6_000_000 + b"[]]"),
            ("hooks.json", b'{"$evil": 1}'),
            ("model.json", b'{"$tensor": "no such"}'),
            ("model.json", b"1"),
            ("model.safetensors", b"\x08\0\0\0\0\0\0\0{}      "),
            ("model.safetensors", b"\xff" * 100),
            ("model.safetensors", b""),
        ],
    )
    def test_a_forged_file_is_an_error_not_a_crash(self, root, name, content):
        path = save(root, 4, state_of(4))
        (path / name).write_bytes(content)
        entry = [len(content), hashlib.sha256(content).hexdigest()]
        reseal(path, lambda data: data["files"].update({name: entry}))
        verify(path)
        with pytest.raises(CheckpointError, match="expected"):
            load(path)

    def test_a_huge_json_file_is_refused_unread(self, root, monkeypatch):
        path = save(root, 4, state_of(4))
        monkeypatch.setattr(manifest, "MAX_JSON_BYTES", 10)
        for read in (load, lambda path: outline(path, "hooks")):
            with pytest.raises(CheckpointError, match=r"hooks.json of \d+ bytes, more than 10"):
                read(path)

    def test_a_huge_manifest_is_refused_unread(self, root):
        path = save(root, 4, state_of(4))
        os.truncate(path / "manifest.json", 300 * 2**20)
        with pytest.raises(CheckpointError, match=r"manifest.json of 314572800 bytes, more than 1048576"):
            verify(path)

    def test_a_file_that_no_memory_holds_is_refused_unread(self, root):
        path = save(root, 4, state_of(4))
        os.truncate(path / "model.safetensors", 2**43)
        reseal(path, lambda data: data["files"].update({"model.safetensors": [2**43, "0" * 64]}))
        with pytest.raises(CheckpointError, match=r"model.safetensors of 8796093022208 bytes, more than \d+"):
            load(path)

    @pytest.mark.parametrize("read", [load, newest_valid, lambda path: outline(path, "hooks")])
    def test_a_disk_that_cannot_be_read_is_damage_and_no_crash(self, root, monkeypatch, read):
        path = save(root, 4, state_of(4))
        monkeypatch.setattr(Path, "read_bytes", failing(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(CheckpointError, match="iter_0000004: Input/output error"):
            read(root if read is newest_valid else path)

    def test_a_file_that_cannot_be_read_is_damage_and_no_crash(self, root, monkeypatch):
        path = save(root, 4, state_of(4))
        cannot = failing(OSError(errno.EIO, "Input/output error", str(path / "rng.json")))
        monkeypatch.setattr(manifest, "open", cannot, raising=False)
        with pytest.raises(CheckpointError, match="iter_0000004: .* got rng.json: Input/output error"):
            verify(path)

    def test_an_outline_is_verified_before_it_is_parsed(self, root):
        path = save(root, 4, state_of(4))
        raw = (path / "hooks.json").read_bytes()
        (path / "hooks.json").write_bytes(raw.replace(b"4", b"5"))
        with pytest.raises(CheckpointError, match="hooks.json with other content"):
            outline(path, "hooks")
        (path / "hooks.json").unlink()
        with pytest.raises(CheckpointError, match="hooks.json: No such file"):
            outline(path, "hooks")
        assert outline(path, "ema") is None


class TestNewest:
    def test_the_highest_iteration_is_newest_whatever_was_written_last(self, root):
        for iteration in (5, 20, 100, 9):
            save(root, iteration, state_of(iteration))
        path, messages = newest_valid(root)
        assert path.name == "iter_0000100"
        assert messages == []

    def test_five_damaged_ones_are_each_named_and_passed_over(self, root):
        for iteration in range(7):
            save(root, iteration, state_of(iteration))
        (root / "iter_0000006" / "manifest.json").unlink()
        (root / "iter_0000005" / "model.safetensors").write_bytes(b"x")
        (root / "iter_0000004" / "rng.json").unlink()
        (root / "iter_0000003" / "extra.txt").touch()
        shutil.copy(root / "iter_0000001" / "model.safetensors", root / "iter_0000002")
        path, messages = newest_valid(root)
        assert_holds(path, 1)
        assert len(messages) == 5
        said = [
            "manifest.json",
            "model.safetensors of 1 bytes",
            "no rng.json",
            "extra.txt",
            "model.safetensors with",
        ]
        for iteration, message, part in zip(range(6, 1, -1), messages, said, strict=True):
            assert f"iter_000000{iteration}" in message
            assert part in message

    def test_none_left_is_an_error_that_names_each(self, root):
        for iteration in range(3):
            (save(root, iteration, state_of(iteration)) / "model.json").unlink()
        with pytest.raises(CheckpointError, match="expected an undamaged checkpoint") as caught:
            newest_valid(root)
        assert all(f"iter_000000{iteration}: " in str(caught.value) for iteration in range(3))
        assert caught.value.exit_code == 2

    @pytest.mark.parametrize(
        "make", [lambda root: None, lambda root: root.mkdir(), lambda root: root.touch()]
    )
    def test_none_at_all_is_an_error(self, root, make):
        root.parent.mkdir()
        make(root)
        with pytest.raises(CheckpointError, match="There is none"):
            newest_valid(root)

    def test_what_a_save_has_replaced_comes_after_its_successor(self, root):
        path = save(root, 3, state_of(3))
        shutil.copytree(path, root / "iter_0000003.old-0123abcd")
        assert newest_valid(root) == (path, [])
        (path / "model.json").unlink()
        assert newest_valid(root)[0].name == "iter_0000003.old-0123abcd"

    def test_links_and_strangers_are_no_checkpoints(self, root, tmp_path):
        path = save(root, 3, state_of(3))
        shutil.copytree(save(tmp_path / "other", 9, state_of(9)), root / ".tmp-iter_0000009-0123abcd")
        shutil.copytree(tmp_path / "other" / "iter_0000009", root / "iter_9")
        (root / "iter_0000009").symlink_to(tmp_path / "other" / "iter_0000009")
        (root / "iter_0000008").touch()
        assert newest_valid(root) == (path, [])


class TestResolve:
    @pytest.fixture
    def run(self, root):
        for iteration in (1, 2, 3):
            save(root, iteration, state_of(iteration))
        write_pointer(root, "best", root / "iter_0000001")
        return root.parent

    @pytest.mark.parametrize(
        ("spec", "found"),
        [
            (".", 3),
            ("checkpoints", 3),
            ("checkpoints/iter_0000002", 2),
            ("checkpoints/best", 1),
            ("checkpoints/latest", 3),
        ],
    )
    def test_a_run_its_checkpoints_one_of_them_or_a_pointer(self, run, spec, found):
        assert resolve(run / spec).name == f"iter_000000{found}"

    def test_a_damaged_newest_is_passed_over_with_a_warning(self, run, caplog):
        (run / "checkpoints" / "iter_0000003" / "rng.json").unlink()
        assert resolve(run).name == "iter_0000002"
        assert "iter_0000003: expected every file as it was written, got no rng.json" in caplog.text

    @pytest.mark.parametrize("spec", ["iter_0000001", "best"])
    def test_a_damaged_one_that_was_named_is_an_error(self, run, spec):
        (run / "checkpoints" / "iter_0000001" / "rng.json").unlink()
        with pytest.raises(CheckpointError, match=r"got no rng.json\. Name the run instead") as caught:
            resolve(run / "checkpoints" / spec)
        assert caught.value.exit_code == 2

    def test_a_named_one_without_manifest_is_an_error(self, run):
        (run / "checkpoints" / "iter_0000003" / "manifest.json").unlink()
        with pytest.raises(CheckpointError, match="Name the run instead"):
            resolve(run / "checkpoints" / "iter_0000003")

    def test_what_is_not_there_is_an_error_that_names_what_is(self, run):
        with pytest.raises(CheckpointError, match="has iter_0000003, iter_0000002, iter_0000001"):
            resolve(run / "checkpoints" / "iter_0000009")
        (run / "config.yaml").touch()
        for name, got in {"config.yaml": "'a file'", "nothing": "nothing"}.items():
            with pytest.raises(CheckpointError, match=rf"got {got}\. {run}/checkpoints has iter_0000003, "):
                resolve(run / name)
        with pytest.raises(CheckpointError, match=rf"{run.parent} has no checkpoints"):
            resolve(run.parent / "nothing")


class TestPointers:
    def test_a_pointer_holds_the_name_and_is_replaced(self, root):
        paths = [save(root, iteration, state_of(iteration)) for iteration in (1, 2)]
        for path in paths:
            write_pointer(root, "best", path)
            assert read_pointer(root, "best") == path
        assert (root / "best").read_text() == "iter_0000002\n"
        assert not [name for name in names_in(root) if name.startswith(".")]

    @pytest.mark.parametrize(
        "content",
        [b"", b"iter_0000009\n", b"../../etc", b"/etc", b"iter_0000001/..", b"\xff\xfe", b"x" * 10**6],
    )
    def test_a_pointer_that_leads_nowhere_is_none(self, root, content):
        save(root, 1, state_of(1))
        (root / "best").write_bytes(content)
        assert read_pointer(root, "best") is None

    @pytest.mark.parametrize("make", ["pipe", "link", "directory"])
    def test_a_pointer_that_is_no_plain_file_is_none_and_nobody_waits(self, root, make):
        save(root, 1, state_of(1))
        place = root / "best"
        if make == "pipe":
            os.mkfifo(place)
        elif make == "link":
            place.symlink_to(root / "latest")
        else:
            place.mkdir()
        assert read_pointer(root, "best") is None
        save(root, 2, state_of(2))
        save(root, 3, state_of(3))
        retain(root, 2)
        assert "iter_0000001" not in names_in(root)

    def test_a_pointer_leads_to_the_old_one_while_its_checkpoint_is_being_replaced(self, root):
        path = save(root, 1, state_of(1))
        aside = path.rename(root / "iter_0000001.old-0123abcd")
        assert read_pointer(root, "latest") == aside
        assert resolve(root / "latest") == aside

    def test_a_pointer_to_a_link_is_none(self, root, tmp_path):
        elsewhere = save(tmp_path / "other", 1, state_of(1))
        root.mkdir(parents=True)
        (root / "iter_0000001").symlink_to(elsewhere)
        write_pointer(root, "best", root / "iter_0000001")
        assert read_pointer(root, "best") is None

    def test_a_pointer_is_written_anew_after_a_failure(self, root, monkeypatch, caplog):
        path = save(root, 1, state_of(1))
        fails_once(monkeypatch, os, "replace")
        write_pointer(root, "best", path)
        assert read_pointer(root, "best") == path
        assert "best: writing it anew, as that failed: [Errno 5] Input/output error" in caplog.text

    def test_a_pointer_that_is_not_there_is_none(self, root):
        assert read_pointer(root, "best") is None

    @pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "iter_0000001"])
    def test_a_pointers_name_is_plain(self, root, name):
        with pytest.raises(CheckpointError, match="checkpoint pointer: expected"):
            write_pointer(root, name, root / "iter_0000001")

    def test_a_pointer_that_cannot_be_written_is_an_error(self, tmp_path):
        with pytest.raises(CheckpointError, match="No such file"):
            write_pointer(tmp_path / "nowhere", "best", tmp_path / "iter_0000001")

    def test_a_wrong_latest_does_not_hide_the_newest(self, root):
        save(root, 1, state_of(1))
        save(root, 2, state_of(2))
        (root / "latest").write_text("iter_0000001\n")
        assert newest_valid(root)[0].name == "iter_0000002"


class TestRetention:
    @pytest.fixture
    def five(self, root):
        for iteration in range(5):
            save(root, iteration, state_of(iteration))
        return root

    def kept(self, root):
        return [int(name[5:]) for name in names_in(root) if name.startswith("iter_")]

    @pytest.mark.parametrize(
        ("keep", "kept"), [(2, [3, 4]), (3, [2, 3, 4]), (5, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4])]
    )
    def test_the_newest_are_kept_and_the_oldest_go(self, five, keep, kept):
        removed = retain(five, keep)
        assert self.kept(five) == kept
        assert [path.name for path in removed] == [f"iter_000000{i}" for i in range(5) if i not in kept]
        assert names_in(five) == [f"iter_000000{i}" for i in kept] + ["latest"]

    def test_zero_keeps_all(self, five):
        assert retain(five, 0) == []
        assert self.kept(five) == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("keep", [1, -1])
    def test_one_alone_is_refused(self, five, keep):
        with pytest.raises(
            CheckpointError,
            match=rf"keep: expected 0 for all, or a whole number >= 2, got {keep}\. One alone",
        ):
            retain(five, keep)
        assert self.kept(five) == [0, 1, 2, 3, 4]

    def test_a_damaged_one_never_counts(self, five, caplog):
        (five / "iter_0000004" / "model.json").unlink()
        (five / "iter_0000002" / "manifest.json").write_text("{}")
        retain(five, 2)
        assert self.kept(five) == [1, 2, 3, 4]
        assert caplog.text.count("does not count as one that is kept") == 2

    def test_when_too_few_are_good_nothing_goes(self, five):
        for iteration in (0, 1, 2, 4):
            (five / f"iter_000000{iteration}" / "model.json").unlink()
        assert retain(five, 2) == []

    def test_each_is_read_once_in_a_process(self, five, monkeypatch, caplog):
        (five / "iter_0000003" / "model.json").unlink()
        read, real, ledger = [], verify, Ledger()
        monkeypatch.setattr(retention, "verify", lambda path: (read.append(path.name), real(path)))
        for _ in range(3):
            retain(five, 3, ledger=ledger)
        assert read == ["iter_0000004", "iter_0000003", "iter_0000002", "iter_0000001"]
        assert caplog.text.count("does not count") == 1
        # What was read back when it was written is not read again; another one of that name is.
        save(five, 5, state_of(5), ledger=ledger)
        retain(five, 3, ledger=ledger)
        assert len(read) == 4
        save(five, 5, state_of(6))
        retain(five, 3, ledger=ledger)
        assert read[4:] == ["iter_0000005"]

    def test_a_forgotten_process_deletes_nothing(self, five):
        with pytest.raises(RunError, match="taken over"):
            retain(five, 2, fence=failing(RunError("taken over")))
        assert self.kept(five) == [0, 1, 2, 3, 4]

    def test_what_pointers_name_and_what_is_protected_is_kept_besides(self, five):
        write_pointer(five, "best", five / "iter_0000001")
        write_pointer(five, "latest", five / "iter_0000002")
        write_pointer(five, "mine", five / "iter_0000000")
        retain(five, 2, {"iter_0000002"})
        assert self.kept(five) == [0, 1, 2, 3, 4]
        (five / "mine").unlink()
        retain(five, 2)
        assert self.kept(five) == [1, 2, 3, 4]

    def test_a_directory_without_manifest_neither_counts_nor_goes(self, five):
        (five / "iter_0000004" / "manifest.json").unlink()
        (five / "iter_0000000" / "manifest.json").unlink()
        write_pointer(five, "latest", five / "iter_0000003")
        retain(five, 2)
        assert self.kept(five) == [0, 2, 3, 4]

    def test_nothing_there_is_nothing_to_do(self, root):
        assert retain(root, 2) == []

    def test_links_are_never_followed(self, five, tmp_path):
        precious = tmp_path / "precious"
        precious.mkdir()
        (precious / "file").touch()
        (five / "iter_0000000" / "link").symlink_to(precious)
        (five / "iter_0000009").symlink_to(precious)
        retain(five, 2)
        assert (precious / "file").exists()
        assert self.kept(five) == [3, 4, 9]

    def test_a_deletion_that_is_cut_short_leaves_nothing_that_looks_like_a_checkpoint(
        self, five, monkeypatch
    ):
        monkeypatch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
        retain(five, 4)
        monkeypatch.undo()
        assert newest_valid(five)[1] == []
        assert self.kept(five) == [1, 2, 3, 4]
        save(five, 5, state_of(5))
        assert not [name for name in names_in(five) if name.startswith(".")]

    def test_a_deletion_is_durable_before_its_first_file_goes(self, five, monkeypatch):
        events, sync_directory = [], retention.sync_directory
        monkeypatch.setattr(
            retention, "sync_directory", lambda path: (events.append(path), sync_directory(path))
        )
        monkeypatch.setattr(shutil, "rmtree", lambda path, **kwargs: events.append(path))
        retain(five, 4)
        assert [path.name[:17] for path in events] == ["checkpoints", ".tmp-iter_0000000"]

    def test_a_checkpoint_that_cannot_be_removed_is_an_error(self, five, monkeypatch):
        monkeypatch.setattr(os, "rename", failing(OSError(errno.EBUSY, "Device or resource busy")))
        with pytest.raises(CheckpointError, match=r"iter_0000000.*Device or resource busy"):
            retain(five, 4)

    def test_the_future_that_a_run_left_can_be_discarded(self, five):
        (five / "iter_0000004" / "model.json").unlink()
        assert {path.name for path in discard_newer(five, 2)} == {"iter_0000003", "iter_0000004"}
        assert self.kept(five) == [0, 1, 2]
        assert discard_newer(five / "nowhere", 2) == []

    def test_pointers_go_with_the_future_and_latest_names_what_is_left(self, five):
        write_pointer(five, "best", five / "iter_0000003")
        write_pointer(five, "gone", five / "iter_0000009")
        write_pointer(five, "early", five / "iter_0000001")
        discard_newer(five, 2)
        assert not (five / "best").exists()
        assert not (five / "gone").exists()
        assert read_pointer(five, "latest") == five / "iter_0000002"
        assert read_pointer(five, "early") == five / "iter_0000001"
        discard_newer(five, -1)
        assert names_in(five) == []

    def test_a_pointer_is_durably_gone_before_its_checkpoint(self, five, monkeypatch):
        write_pointer(five, "best", five / "iter_0000004")
        monkeypatch.setattr(os, "rename", failing(Killed()))
        with pytest.raises(Killed):
            discard_newer(five, 3)
        assert self.kept(five) == [0, 1, 2, 3, 4]
        assert not (five / "best").exists()
        monkeypatch.setattr(pointers, "sync_directory", failing(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(CheckpointError, match="Input/output error"):
            discard_newer(five, 2)
        assert self.kept(five) == [0, 1, 2, 3, 4]

    def test_a_pointer_advances_to_what_is_there_and_never_goes_back(self, five):
        advance_pointer(five, "best", 9)
        assert read_pointer(five, "best") is None
        for iteration, named in ((2, 2), (1, 2), (3, 3)):
            advance_pointer(five, "best", iteration)
            assert read_pointer(five, "best") == five / f"iter_{named:07d}"


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


def failing(error):
    def fail(*args, **kwargs):
        raise error

    return fail


def fails_once(monkeypatch, module, name):
    """Make the next call of a function fail, and the later ones work."""
    real, calls = getattr(module, name), []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            raise OSError(errno.EIO, "Input/output error")
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, call)
    return calls


class Cut:
    """Lets ``survivors`` calls of the operations that change a disk pass, then raises at every one."""

    OPERATIONS = ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "open", "write", "close")

    def __init__(self, monkeypatch, survivors, error, once=False):
        self.survivors, self.error, self.once, self.num_raised = survivors, error, once, 0
        for name in self.OPERATIONS:
            monkeypatch.setattr(os, name, self.counted(getattr(os, name)))

    def counted(self, function):
        def call(*args, **kwargs):
            self.survivors -= 1
            if self.survivors < 0 and not (self.once and self.num_raised):
                self.num_raised += 1
                raise self.error
            return function(*args, **kwargs)

        return call


class TestCutShort:
    """At every instant at which a save can end, the last good checkpoint is found and loads."""

    @pytest.mark.parametrize("again", [False, True], ids=["a new iteration", "the same iteration again"])
    @pytest.mark.parametrize("kind", ["kill", "failure", "one failure"])
    def test_the_last_good_checkpoint_always_loads(self, tmp_path, monkeypatch, again, kind):
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # counted, and not waited for
        error = Killed() if kind == "kill" else OSError(errno.EIO, "Input/output error")
        iteration, survivors, outcomes = 1 if again else 2, 0, set()
        while True:
            root = tmp_path / f"{survivors}" / "checkpoints"
            save(root, 1, state_of(1))
            with monkeypatch.context() as patch:
                cut = Cut(patch, survivors, error, once=kind == "one failure")
                try:
                    save(root, iteration, state_of(7))
                    ended = None
                except (Killed, CheckpointError) as raised:
                    ended = type(raised)
            assert ended in (Killed, None) if kind == "kill" else ended in (CheckpointError, None)
            assert cut.num_raised or ended is None
            found, messages = newest_valid(root)
            assert messages == []
            value = load(found)["model"]["weight"][0, 0].item()
            assert value in (1.0, 7.0)
            outcomes.add(value)
            if kind == "one failure":
                # What failed was written anew; only a deletion is not tried twice.
                assert value == 7.0
                assert ended is None or again
                left = [name for name in names_in(root) if name.startswith(".tmp-iter")]
                assert all(".old-" in name for name in left)  # deletions go on at the next save
            # What was left is cleared away by the next save, and it works.
            assert_holds(save(root, 3, state_of(3)), 3)
            assert not [name for name in names_in(root) if name.startswith(".") or ".old-" in name]
            assert_holds(newest_valid(root)[0], 3)
            if not cut.num_raised:
                break
            survivors += 1
        assert survivors > 30
        assert outcomes == ({7.0} if kind == "one failure" else {1.0, 7.0})

    def test_a_save_syncs_every_file_and_directory_before_it_says_so(self, root, monkeypatch):
        save(root, 0, state_of(0))
        events, fsync, rename, replace = [], os.fsync, os.rename, os.replace

        def noted(descriptor):
            events.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
            fsync(descriptor)

        def renamed(source, target):
            events.append(("rename", Path(target).name))
            rename(source, target)

        def replaced(source, target):
            events.append(("replace", Path(target).name))
            replace(source, target)

        monkeypatch.setattr(os, "fsync", noted)
        monkeypatch.setattr(os, "rename", renamed)
        monkeypatch.setattr(os, "replace", replaced)
        save(root, 3, {"a": 1, "m": {"w": torch.zeros(1)}})
        shown = [(what, ".tmp" if name.startswith(".tmp") else name) for what, name in events]
        assert shown == [
            ("fsync", "a.json"),
            ("fsync", "m.json"),
            ("fsync", "m.safetensors"),
            ("fsync", "manifest.json"),
            ("fsync", ".tmp"),
            ("rename", "iter_0000003"),
            ("fsync", "checkpoints"),
            ("fsync", ".tmp"),
            ("replace", "latest"),
            ("fsync", "checkpoints"),
        ]

    def test_the_checkpoints_directory_itself_is_durable(self, tmp_path, monkeypatch):
        synced, fsync = [], os.fsync

        def noted(descriptor):
            synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", noted)
        save(tmp_path / "a" / "b", 3, {"x": 1})
        assert synced[:2] == [str(tmp_path), str(tmp_path / "a")]

    def test_after_a_failed_fsync_all_is_written_anew_under_another_name(self, root, monkeypatch, caplog):
        save(root, 1, state_of(1))
        synced, made, fsync, mkdir = [], [], os.fsync, os.mkdir

        def noted(descriptor):
            synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            if len(synced) == 3:
                raise OSError(errno.EIO, "Input/output error")
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", noted)
        monkeypatch.setattr(os, "mkdir", lambda path, *mode: (made.append(str(path)), mkdir(path, *mode)))
        assert_holds(save(root, 2, state_of(2)), 2)
        assert len(set(made)) == 2
        assert len(set(synced)) == len(synced) - 1  # the directory, after each rename: no file twice
        assert "iter_0000002: writing it anew, as that failed: [Errno 5] Input/output error" in caplog.text
        assert names_in(root) == ["iter_0000001", "iter_0000002", "latest"]

    def test_a_disk_that_fails_twice_is_an_error_and_the_last_good_one_is_intact(self, root, monkeypatch):
        save(root, 1, state_of(1))
        calls = []

        def fsync(descriptor):
            calls.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(
            CheckpointError, match=r"iter_0000002: .*Input/output error.*Earlier checkpoints are intact"
        ):
            save(root, 2, state_of(2))
        assert len(set(calls)) == len(calls) == 2
        assert names_in(root) == ["iter_0000001", "latest"]
        assert_holds(newest_valid(root)[0], 1)

    def test_a_rename_that_may_not_last_is_taken_back(self, root, monkeypatch):
        save(root, 1, state_of(1))
        monkeypatch.setattr(writing, "sync_directory", self.only_inside(root, writing.sync_directory))
        for iteration in (1, 2):
            with pytest.raises(CheckpointError, match="Input/output error"):
                save(root, iteration, state_of(7))
            assert names_in(root) == ["iter_0000001", "latest"]
            assert_holds(root / "iter_0000001", 1)

    @staticmethod
    def only_inside(root, sync):
        def sync_directory(path):
            if path == root:
                raise OSError(errno.EIO, "Input/output error")
            sync(path)

        return sync_directory

    def test_what_reads_back_otherwise_is_written_anew_and_never_gets_its_name(self, root, monkeypatch):
        save(root, 1, state_of(1))
        real, calls = os.write, []

        def write(descriptor, data):
            data = bytes(data)
            if b"$tuple" in data:
                calls.append(data)
                data = data.replace(b"0.5", b"0.6")
            return real(descriptor, data)

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            with pytest.raises(
                CheckpointError,
                match="iter_0000002.*: expected every file as it was.* Earlier checkpoints are intact",
            ):
                save(root, 2, state_of(2))
        assert len(calls) == 2
        assert names_in(root) == ["iter_0000001", "latest"]

    def test_a_full_disk_is_said(self, root, monkeypatch):
        full = OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr(os, "write", failing(full))
        with pytest.raises(CheckpointError, match="No space left on device") as caught:
            save(root, 2, state_of(2))
        assert caught.value.__cause__ is full
        assert names_in(root) == []

    def test_a_root_that_cannot_be_is_said(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(
            CheckpointError, match=r"iter_0000001: expected a disk that takes it, got '.*exists|Not a"
        ):
            save(tmp_path / "file", 1, state_of(1))

    def test_a_save_killed_between_its_renames_leaves_the_old_one_under_a_name_that_is_found(
        self, root, monkeypatch
    ):
        save(root, 1, state_of(1))
        with monkeypatch.context() as patch:
            real, calls = os.rename, []

            def rename(source, target):
                calls.append(target)
                if len(calls) == 2:
                    raise Killed
                real(source, target)

            patch.setattr(os, "rename", rename)
            with pytest.raises(Killed):
                save(root, 1, state_of(7))
        assert not (root / "iter_0000001").exists()
        found, messages = newest_valid(root)
        assert_holds(found, 1)
        assert messages == []
        assert ".old-" in found.name

    def test_a_save_that_cannot_take_its_name_puts_the_old_one_back(self, root, monkeypatch):
        save(root, 1, state_of(1))
        with monkeypatch.context() as patch:
            real = os.rename

            def rename(source, target):
                if Path(source).name.startswith(".tmp-") and Path(target).name == "iter_0000001":
                    raise OSError(errno.EIO, "Input/output error")
                real(source, target)

            patch.setattr(os, "rename", rename)
            with pytest.raises(CheckpointError, match="Input/output error"):
                save(root, 1, state_of(7))
        assert names_in(root) == ["iter_0000001", "latest"]
        assert_holds(root / "iter_0000001", 1)

    def test_what_a_killed_save_had_replaced_goes_after_its_successor_is_durable(self, root, monkeypatch):
        path = save(root, 1, state_of(1))
        shutil.copytree(path, root / "iter_0000001.old-0123abcd")
        events, sync, rename = [], retention.sync_directory, os.rename
        monkeypatch.setattr(retention, "sync_directory", lambda path: (events.append("sync"), sync(path)))
        monkeypatch.setattr(os, "rename", lambda *names: (events.append("rename"), rename(*names)))
        save(root, 2, state_of(2))
        assert events[:3] == ["sync", "rename", "sync"]
        assert names_in(root) == ["iter_0000001", "iter_0000002", "latest"]

    def test_an_old_one_is_kept_while_its_successor_is_damaged(self, root):
        path = save(root, 1, state_of(1))
        shutil.copytree(path, root / "iter_0000001.old-0123abcd")
        (path / "model.json").unlink()
        save(root, 2, state_of(2))
        shutil.rmtree(root / "iter_0000002")
        assert_holds(newest_valid(root)[0], 1)

    def test_only_leftovers_of_our_own_are_removed_and_no_link_is_followed(self, root, tmp_path):
        save(root, 1, state_of(1))
        precious = tmp_path / "precious"
        precious.mkdir()
        (precious / "file").touch()
        (root / ".tmp-iter_0000002-0123abcd").symlink_to(precious)
        stale = root / ".tmp-iter_0000003-0123abcd"
        stale.mkdir()
        (stale / "link").symlink_to(precious)
        (root / ".tmp-latest-0123abcd").touch()
        mine = [".tmp", ".tmp-mine", ".hidden", "notes.txt", "tmp-iter_0000002-0123abcd"]
        for name in mine:
            (root / name).mkdir()
        save(root, 2, state_of(2))
        assert (precious / "file").exists()
        assert names_in(root) == sorted([*mine, "iter_0000001", "iter_0000002", "latest"])

    def test_what_stands_where_a_checkpoint_belongs_is_replaced(self, root, tmp_path):
        root.mkdir(parents=True)
        (root / "iter_0000001").mkdir()
        (root / "iter_0000002").touch()
        (root / "iter_0000003").symlink_to(tmp_path)
        (root / "iter_0000004").symlink_to(tmp_path / "nowhere")
        for iteration in (1, 2, 3, 4):
            assert_holds(save(root, iteration, state_of(iteration)), iteration)
        assert names_in(root) == [*(f"iter_000000{iteration}" for iteration in (1, 2, 3, 4)), "latest"]
        assert tmp_path.exists()


class TestFence:
    """A process that another one has taken over from commits nothing and deletes nothing."""

    def forgotten_after(self, num_calls):
        calls = []

        def fence():
            calls.append(1)
            if len(calls) > num_calls:
                raise RunError("taken over")

        return fence

    @pytest.mark.parametrize("num_calls", [0, 1])
    def test_nothing_is_committed_and_nothing_of_ours_is_left(self, root, num_calls):
        save(root, 1, state_of(1))
        (root / ".tmp-iter_0000002-0123abcd").mkdir()  # the other's work
        left = names_in(root)
        with pytest.raises(RunError, match="taken over"):
            save(root, 2, state_of(2), fence=self.forgotten_after(num_calls))
        assert names_in(root) == (left if num_calls == 0 else ["iter_0000001", "latest"])
        assert_holds(root / "iter_0000001", 1)

    def test_it_is_asked_when_all_is_written_just_before_the_rename(self, root, monkeypatch):
        events, rename = [], os.rename
        monkeypatch.setattr(os, "rename", lambda *names: (events.append("rename"), rename(*names)))
        monkeypatch.setattr(writing, "verify", lambda path: (events.append("verify"), verify(path)))
        save(root, 1, state_of(1), fence=lambda: events.append("fence"))
        assert events == ["fence", "verify", "fence", "rename", "fence"]

    def test_neither_the_pointer_nor_what_was_replaced_is_touched(self, root):
        save(root, 2, state_of(2))
        save(root, 1, state_of(1))
        with pytest.raises(RunError, match="taken over"):
            save(root, 2, state_of(7), fence=self.forgotten_after(2))
        assert (root / "latest").read_text() == "iter_0000001\n"
        with pytest.raises(RunError, match="taken over"):
            save(root, 1, state_of(7), fence=self.forgotten_after(3))
        assert [name for name in names_in(root) if ".old-" in name]

    def test_it_is_not_asked_again_when_it_has_refused(self, root):
        asked = []

        def fence():
            asked.append(1)
            raise RunError("taken over")

        with pytest.raises(RunError, match="taken over"):
            save(root, 1, state_of(1), fence=fence)
        assert len(asked) == 1


WORKER = """
import os, random, signal, sys, time, torch
from pathlib import Path
from hookline.checkpoint import load, newest_valid, save

torch.set_num_threads(1)  # the threads of a pool do not survive a fork
root, generator = Path(sys.argv[1]), random.Random(1)
save(root, 0, {"model": {"w": torch.zeros(50_000)}, "n": 0})
for trial in range(25):
    child = os.fork()
    if child == 0:
        first = load(newest_valid(root)[0])["n"]
        for n in range(first + 1, first + 10**6):
            save(root, n // 2, {"model": {"w": torch.full((50_000,), float(n))}, "n": n})
    time.sleep(generator.uniform(0.0, 0.08))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    path, messages = newest_valid(root)
    loaded = load(path)
    assert messages == [], messages
    assert set(loaded["model"]["w"].tolist()) == {float(loaded["n"])}
print(loaded["n"])
"""


def test_a_process_killed_at_any_time_leaves_a_checkpoint_that_loads(root):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WORKER, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
