"""The plugins of docs/cookbook are what their pages say: whole, clean, and as good as any other plugin.

That their pages do what they show is tested by tests/integration/test_docs.py, which runs every one of them.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from hookline import EventWriter, HookBase, Loader
from hookline.testing import MemoryWriter, assert_plugin_conforms, tiny_trainer

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for path in (ROOT / "docs/cookbook").glob("*.md") if path.stem != "index")
AUTHORS = sorted((ROOT / "docs/authors").glob("*.md"))
FILES = re.compile(r"^<!-- test: file (\S+) -->\n```(\w+)\n((?:.*\n)*?)```$", re.MULTILINE)


def files(page: Path, suffix: str) -> dict[str, str]:
    """Return the files with ``suffix`` that a page writes, by name."""
    return {name: text for name, _, text in FILES.findall(page.read_text()) if name.endswith(suffix)}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Return a function that imports a file of the cookbook as a module, as ``./file.py:Name`` would be."""
    folder = tmp_path_factory.mktemp("cookbook")
    for page in PAGES:
        for name, text in files(page, ".py").items():
            (folder / Path(name).name).write_text(text)
    (folder / "shapes.py").write_text((ROOT / "examples/shapes/shapes.py").read_text())

    def module(name):
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(
                name, folder / f"{name.removeprefix('cookbook_')}.py"
            )
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
        return sys.modules[name]

    yield module
    for name in [name for name in sys.modules if name.startswith("cookbook_")]:
        del sys.modules[name]


class Classes(torch.nn.Module):
    """Takes the points of the kit for pictures of two classes, and returns what a classifier does."""

    def __init__(self):
        super().__init__()
        self.features = torch.nn.Linear(4, 8)
        self.dropout = torch.nn.Dropout(0.2)
        self.head = torch.nn.Linear(8, 2)

    def forward(self, batch):
        logits = self.head(self.dropout(self.features(batch["pictures"].flatten(1)).relu()))
        losses = {"loss": torch.nn.functional.cross_entropy(logits, batch["labels"])}
        return losses if self.training else {**losses, "logits": logits, "labels": batch["labels"]}


class Pictures(torch.utils.data.Dataset):
    """Pictures of 2 x 2 pixels; the bright ones are the class 1."""

    def __init__(self, num_pictures):
        values = torch.linspace(0, 1, num_pictures * 4).view(num_pictures, 1, 2, 2)
        self.pictures = values.mul(97).cos().abs()
        self.labels = (self.pictures.mean((1, 2, 3)) > 0.6).long()

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"pictures": self.pictures[index], "labels": self.labels[index]}


def classifier(*hooks, **options):
    """A `tiny_trainer` of a classifier of pictures."""
    from hookline import distributed

    torch.manual_seed(options.get("seed", 0))  # for the weights, which are drawn before the trainer is made
    rank = {"rank": distributed.rank(), "world_size": distributed.world_size()}
    trainer = tiny_trainer(*hooks, **{"model": Classes, **options})
    trainer.data_loader = Loader(
        Pictures(64), batch_size=8, seed=options.get("seed", 0), drop_last=True, **rank
    )
    trainer.eval_data = lambda data: Loader(Pictures(16), batch_size=8, shuffle=False, pad=False, **rank)
    return trainer


PLUGINS = {
    "freeze": ("Freeze", {"match": "features.*", "until": 4}),
    "gradient_norms": ("GradientNorms", {"period": 3, "bins": 8}),
    "sample_images": ("SampleImages", {"num_images": 4}),
    "time_limit": ("TimeLimit", {"hours": 1.0}),
    "notify": ("Notify", {"command": ["true"]}),
    "confusion": ("Confusion", {"names": ["dark", "bright"]}),
}


def test_the_six_that_people_ask_for_are_there():
    assert {page.stem.replace("-", "_") for page in PAGES} == PLUGINS.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_a_plugin_a_config_that_enables_it_and_a_run(page):
    """A page without one of them would not be executed by tests/integration/test_docs.py."""
    (plugin,) = files(page, ".py")
    (config,) = files(page, ".yaml")
    cls, _ = PLUGINS[page.stem.replace("-", "_")]
    hooks = yaml.safe_load(files(page, ".yaml")[config])["hooks"]
    named = [next(iter(hook)) if isinstance(hook, dict) else hook for hook in hooks]
    assert f"./{Path(plugin).name}:{cls}" in named
    assert re.search(rf"^\$ hookline train {re.escape(config)}.*\n(?!\$|```)", page.read_text(), re.MULTILINE)
    assert "test: skip" not in page.read_text().partition("```console\n$ hookline train")[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_index_leads_to_every_page(page):
    index = (page.parent / "index.md").read_text()
    assert f"]({page.name})" in index
    assert re.search(rf"^{page.stem}$", index, re.MULTILINE)


@pytest.mark.parametrize("page", [*PAGES, *AUTHORS], ids=lambda page: page.stem)
def test_the_code_of_a_page_is_clean(page):
    for name, text in files(page, ".py").items():
        command = [sys.executable, "-m", "ruff", "check", "--quiet", "--stdin-filename", ROOT / name, "-"]
        for arguments in (command, [*command[:3], "format", "--check", "--quiet", *command[5:]]):
            checked = subprocess.run(arguments, input=text, capture_output=True, text=True, cwd=ROOT)
            assert checked.returncode == 0, f"{page.name}: {name}\n{checked.stdout}{checked.stderr}"


@pytest.mark.parametrize("name", PLUGINS)
def test_it_conforms(name, load):
    cls, options = PLUGINS[name]
    plugin = getattr(load(f"cookbook_{name}"), cls)
    assert issubclass(plugin, (HookBase, EventWriter))
    assert_plugin_conforms(plugin, options, trainer=classifier)


def test_freeze_leaves_the_frozen_weights_and_lets_the_others_learn(load):
    trainer = classifier(load("cookbook_freeze").Freeze("features.*", until=4))
    features, head = (layer.weight.clone() for layer in (trainer.model.features, trainer.model.head))
    trainer.train(0, 4)
    assert torch.equal(trainer.model.features.weight, features)
    assert not torch.equal(trainer.model.head.weight, head)
    trainer.train(4, 5)
    assert not torch.equal(trainer.model.features.weight, features)


def test_freeze_takes_no_decay_and_no_momentum_either(load):
    trainer = classifier(load("cookbook_freeze").Freeze("features.*", until=4))
    trainer.optimizer.param_groups[0]["weight_decay"] = 0.1
    before = trainer.model.features.weight.clone()
    trainer.train(0, 4)
    assert torch.equal(trainer.model.features.weight, before)
    assert not trainer.optimizer.state.get(trainer.model.features.weight)


def test_gradient_norms_are_those_of_each_parameter(load):
    writer = MemoryWriter()
    trainer = classifier(load("cookbook_gradient_norms").GradientNorms(5), writers=[writer])
    trainer.train()
    (first, histogram), (second, _) = writer.histograms("grad_norms")
    assert (first, second) == (4, 9)
    assert histogram.num == len(list(trainer.model.parameters()))
    norm = dict(writer.scalars("grad_norm"))[4]
    assert 10**histogram.max <= norm <= 10**histogram.max * 2


def test_sample_images_frames_what_is_right_in_green_and_what_is_wrong_in_red(load):
    strip = load("cookbook_sample_images").strip
    image = strip(torch.full((2, 1, 3, 4), 0.5), torch.tensor([True, False]))
    assert image.shape == (3, 5, 12)
    right, wrong = image[:, 0, 0], image[:, 0, 6]
    assert right.argmax() == 1
    assert wrong.argmax() == 0
    assert image[:, 1:4, 1:5].unique().tolist() == [0.5]


def test_sample_images_leaves_no_hook_behind(load):
    from hookline.hooks import Evaluate

    writer = MemoryWriter()
    hook = load("cookbook_sample_images").SampleImages(4, evaluation="Evaluate")
    trainer = classifier(Evaluate(period=5), hook, writers=[writer])
    trainer.train()
    assert [iteration for iteration, _ in writer.images("samples")] == [4, 9]
    assert not trainer.model._forward_hooks


def test_a_confusion_matrix_counts_every_picture_in_the_row_of_what_it_shows(load):
    from hookline.hooks import Evaluate

    writer = MemoryWriter()
    hook = load("cookbook_confusion").Confusion(["dark", "bright"], evaluation="Evaluate")
    trainer = classifier(Evaluate(), hook, writers=[writer])
    trainer.train()
    ((_, text),) = writer.texts("confusion/counts")
    head, *rows = [line.split() for line in text.splitlines()]
    assert head == ["dark", "bright"]
    counts = torch.tensor([[int(cell) for cell in row[1:]] for row in rows])
    assert counts.sum(1).tolist() == torch.bincount(Pictures(16).labels, minlength=2).tolist()
    for row, label in enumerate(head):
        ((_, recall),) = writer.scalars(f"recall/{label}")
        assert recall == pytest.approx((counts[row, row] / counts[row].sum()).item())


def test_a_confusion_matrix_of_other_classes_is_refused(load):
    from hookline import PluginError
    from hookline.hooks import Evaluate

    hook = load("cookbook_confusion").Confusion(["a", "b", "c"], evaluation="Evaluate")
    with pytest.raises(PluginError, match=r"logits of 3 classes, from Classes .* Check 'names'"):
        classifier(Evaluate(), hook).train()


def test_a_time_limit_stops_the_run_after_it_and_not_before(load, monkeypatch):
    module, now = load("cookbook_time_limit"), [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])

    class Clock(HookBase):
        def before_step(self):
            now[0] += 1.0

    trainer = classifier(Clock(), module.TimeLimit(3.0 / 3600))
    trainer.train()
    assert (trainer.status, trainer.iter) == ("stopped", 3)
    assert trainer.reason == "time limit of 0.000833333 h"


def test_notify_tells_the_command_once_and_hides_no_error(load, tmp_path):
    file = tmp_path / "message.txt"
    hook = load("cookbook_notify").Notify(["sh", "-c", f"cat >> {file}"])

    class Fails(HookBase):
        def after_step(self):
            raise ZeroDivisionError("by purpose")

    with pytest.raises(ZeroDivisionError, match="by purpose"):
        classifier(hook, Fails(), run_dir=tmp_path).train()
    where, what = file.read_text().splitlines()
    assert where.startswith(f"{tmp_path} on ")
    assert where.endswith(" failed at iteration 0")
    assert what == "ZeroDivisionError: by purpose"


@pytest.mark.parametrize("command", [["false"], ["no-such-program"]])
def test_a_message_that_cannot_be_sent_hides_no_error(load, command, caplog):
    class Fails(HookBase):
        def after_step(self):
            raise ZeroDivisionError("by purpose")

    with pytest.raises(ZeroDivisionError, match="by purpose"):
        classifier(load("cookbook_notify").Notify(command), Fails()).train()
    assert "on_error failed, the others went on" in caplog.text
