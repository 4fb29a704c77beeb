"""What a run is made of, as files in its directory."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from hookline import DefaultTrainer, description, load_config
from hookline.rundir import RunDir


@pytest.fixture
def run(tmp_path):
    return RunDir.create(tmp_path / "runs", "char-gpt")


def describe(run):
    config = {"run": {"name": "x"}, "optimizer": {"target": "torch.optim.SGD"}, "train": {"max_iter": 1}}
    description.write(run, load_config(config), DefaultTrainer, {})


def test_environment_says_what_a_rerun_needs(run, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["hookline", "train", "run.yaml"])
    describe(run)
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["numpy"] == np.__version__
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["argv"] == ["hookline", "train", "run.yaml"]
    assert environment["threads"] == torch.get_num_threads()
    assert environment["cpus"] == os.cpu_count()
    assert environment["gpus"] == torch.cuda.device_count()
    assert environment["directory"] == os.getcwd()
    assert environment.keys() >= {"time", "host", "platform", "hookline", "cuda", "git_commit"}


def test_environment_names_the_commit_and_does_without(run, tmp_path, monkeypatch):
    repository = tmp_path / "repository"
    repository.mkdir()
    monkeypatch.chdir(repository)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout

    def commit():
        describe(run)
        return json.loads((run.path / "environment.json").read_text())["git_commit"]

    assert commit() == head.strip()
    monkeypatch.chdir(run.path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(run.path.parent))
    assert commit() is None
    monkeypatch.setenv("PATH", "")
    assert commit() is None


def test_environment_names_devices_only_where_cuda_is_in_use():
    class Cuda:
        in_use = False

        def device_count(self):
            return 2

        def is_initialized(self):
            return self.in_use

        def get_device_name(self, index):
            assert self.in_use
            return f"GPU {index}"

    cuda = Cuda()
    assert description._gpus(cuda) == 2
    cuda.in_use = True
    assert description._gpus(cuda) == ["GPU 0", "GPU 1"]
