"""What is averaged, what evaluations measure, and that training does not notice."""

import logging
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hookline import CheckpointError, ConfigError, DefaultTrainer, HookBase, PluginError, load_model
from hookline.cli import main
from hookline.hooks import Evaluate
from hookline.testing import TinyModel, run_ranks, tiny_trainer
from hookline_ema import EMA


@pytest.fixture(autouse=True)
def _log_as_before():
    """Undo what a command does to the log of this process."""
    logger = logging.getLogger("hookline")
    handlers, logger_state = logger.handlers[:], (logger.propagate, logger.level)
    yield
    logger.handlers = handlers
    logger.propagate, level = logger_state
    logger.setLevel(level)


class Weights(HookBase):
    """Keeps the weights after each iteration, and what is evaluated."""

    def __init__(self):
        self.trained, self.evaluated = [], []

    def after_step(self):
        self.trained.append(copied(self.trainer.model))

    def before_evaluate(self):
        self.evaluated.append(copied(self.trainer.model))

    def after_evaluate(self):
        self.evaluated.append(copied(self.trainer.model))


class Evaluation(HookBase):
    """Evaluates the loss on nothing in particular every few iterations."""

    def __init__(self, period=3, fails=False):
        self.period, self.fails = period, fails

    def before_train(self):
        self.trainer.evaluations["loss"] = self.evaluate

    def after_step(self):
        if (self.trainer.iter + 1) % self.period == 0:
            self.trainer.request_evaluation("loss")

    def evaluate(self):
        if self.fails:
            raise RuntimeError("no evaluation")
        return {"eval/weight": float(next(self.trainer.model.parameters()).detach().sum())}


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(expected, actual):
    assert expected.keys() == actual.keys()
    for name in expected:
        assert torch.equal(expected[name], actual[name]), name


def parameters_of(state) -> dict[str, torch.Tensor]:
    names = dict(TinyModel().named_parameters())
    return {name: state[name] for name in names}


def trained(*hooks, max_iter=9, **options):
    trainer = tiny_trainer(*hooks, max_iter=max_iter, **options)
    trainer.train()
    return trainer


# -- what is averaged ------------------------------------------------------------------------------


@pytest.mark.parametrize("buffers", ["copy", "average"])
def test_without_a_warm_up_it_is_torchs_averaged_model_to_the_bit(buffers):
    class Reference(HookBase):
        def before_train(self):
            average = get_ema_multi_avg_fn(0.9)
            self.model = AveragedModel(
                self.trainer.model, multi_avg_fn=average, use_buffers=buffers == "average"
            )

        def after_step(self):
            self.model.update_parameters(self.trainer.model)

    average, reference = EMA(0.9, warmup=False, buffers=buffers), Reference()
    trained(average, reference, max_iter=20)
    expected = reference.model.module.state_dict()
    assert_equal({name: expected[name] for name in average.weights}, average.weights)
    assert ("layers.1.running_var" in average.weights) == (buffers == "average")
    assert "layers.1.num_batches_tracked" not in average.weights


def test_the_warm_up_begins_with_a_smaller_decay_and_ends_at_that_of_the_option():
    average, weights = EMA(0.5), Weights()
    trained(average, weights, max_iter=12)
    expected = parameters_of(weights.trained[0])
    decays = []
    for n, now in enumerate(weights.trained[1:], start=1):
        decays.append(min(0.5, (1 + n) / (10 + n)))
        expected = {name: torch.lerp(expected[name], now[name], 1 - decays[-1]) for name in expected}
    assert decays[0] == 2 / 11
    assert decays[-1] == 0.5
    for name in expected:
        torch.testing.assert_close(average.weights[name], expected[name], rtol=1e-6, atol=1e-7)


def test_it_is_updated_when_a_period_ends_and_begins_with_the_weights_of_the_first_update():
    average, weights = EMA(0.9, warmup=False, period=4), Weights()
    trained(average, weights, max_iter=11)
    assert average.num_updates == 2
    first, second = parameters_of(weights.trained[3]), parameters_of(weights.trained[7])
    for name in first:
        torch.testing.assert_close(average.weights[name], torch.lerp(first[name], second[name], 0.1))


def test_a_change_too_small_for_a_bfloat16_is_not_lost():
    model = TinyModel().bfloat16()
    average = EMA(0.99, warmup=False)
    trainer = tiny_trainer(average, model=lambda: model)
    average.before_train(trainer)
    with torch.no_grad():
        model.layers[0].bias.fill_(1.0)
        average.update()
        model.layers[0].bias.fill_(1.5)
        average.update()
    # The next bfloat16 after 1 is 1.0078125: in bfloat16 the average would still be 1.
    assert average.weights["layers.0.bias"].tolist() == pytest.approx([1.005] * 8)
    average.before_evaluate(trainer)
    assert model.layers[0].bias.dtype == torch.bfloat16
    assert model.layers[0].bias.unique().tolist() == [1.0078125]
    average.after_evaluate()
    assert model.layers[0].bias.unique().tolist() == [1.5]


def test_a_mask_of_minus_infinity_in_a_buffer_stays_one():
    class Masked(TinyModel):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    average = EMA(0.9, buffers="average")
    trained(average, model=Masked)
    assert average.weights["mask"].tolist() == [0.0, -torch.inf]


def test_a_buffer_that_the_forward_assigns_anew_is_averaged_as_it_is_now():
    class Counting(TinyModel):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, batch):
            self.seen = self.seen + 1
            return super().forward(batch)

    average = EMA(0.5, warmup=False, buffers="average")
    trained(average, model=Counting, max_iter=3)
    assert average.weights["seen"] == (1 * 0.5 + 2 * 0.5) * 0.5 + 3 * 0.5


def test_a_tied_weight_has_one_average_under_all_of_its_names():
    class Tied(TinyModel):
        def __init__(self):
            super().__init__()
            self.twin = self.layers[0]

    average = EMA()
    trained(average, model=Tied)
    assert average.weights["twin.weight"] is average.weights["layers.0.weight"]


# -- what evaluations measure ----------------------------------------------------------------------


def test_evaluations_measure_the_average_and_every_other_plugin_sees_it_wherever_it_stands():
    before, average, after = Weights(), EMA(0.9), Weights()
    trainer = trained(before, Evaluation(), average, after, max_iter=9)
    assert len(before.evaluated) == len(after.evaluated) == 2 * 3
    assert_equal(dict(average.weights), parameters_of(before.evaluated[-1]))
    for seen, others in zip(before.evaluated, after.evaluated, strict=True):
        assert_equal(seen, others)
    total = average.weights["layers.0.weight"].sum().item()
    assert trainer.storage.history("eval/weight").latest() == pytest.approx(total, abs=1e-6)
    assert_equal(before.trained[-1], copied(trainer.model))


@pytest.mark.parametrize("buffers", ["copy", "average"])
def test_training_is_as_without_it_to_the_bit(buffers):
    without = trained(Evaluation(), max_iter=12)
    average = trained(Evaluation(), EMA(0.9, buffers=buffers), max_iter=12)
    assert_equal(copied(without.model), copied(average.model))


def test_the_weights_come_back_when_an_evaluation_fails():
    weights = Weights()
    trainer = tiny_trainer(EMA(0.9), weights, Evaluation(fails=True), max_iter=9)
    with pytest.raises(RuntimeError, match="no evaluation"):
        trainer.train()
    assert_equal(weights.trained[-1], copied(trainer.model))
    assert weights.evaluated
    assert not torch.equal(weights.evaluated[0]["layers.0.weight"], weights.trained[-1]["layers.0.weight"])


def test_on_an_error_the_weights_are_back_before_a_plugin_that_is_listed_first_looks():
    class Rescue(Weights):
        def on_error(self):
            self.rescued = copied(self.trainer.model)

    rescue = Rescue()
    trainer = tiny_trainer(rescue, EMA(0.9), Evaluation(fails=True), max_iter=9)
    with pytest.raises(RuntimeError, match="no evaluation"):
        trainer.train()
    assert_equal(rescue.trained[-1], rescue.rescued)


def test_before_the_first_update_the_weights_are_evaluated():
    average, weights = EMA(period=100), Weights()
    trained(average, weights, Evaluation(), max_iter=3)
    assert average.weights == {}
    assert_equal(weights.trained[-1], weights.evaluated[-1])


def test_of_two_averages_the_first_is_evaluated_and_both_are_kept():
    first, second, weights = EMA(0.2), EMA(0.99), Weights()
    trainer = tiny_trainer(max_iter=9)
    trainer.register_hook(first, "fast")
    trainer.register_hook(second, "slow")
    trainer.register_hooks([Evaluation(), weights])
    trainer.train()
    assert_equal(dict(first.weights), parameters_of(weights.evaluated[-1]))
    assert_equal(weights.trained[-1], copied(trainer.model))
    assert not torch.equal(first.weights["layers.0.weight"], second.weights["layers.0.weight"])


# -- state -----------------------------------------------------------------------------------------


def test_a_run_that_is_stopped_and_resumed_has_the_same_average_to_the_bit():
    whole = EMA(0.9, buffers="average")
    trained(whole, Evaluation(), max_iter=12)
    state = trained(EMA(0.9, buffers="average"), Evaluation(), max_iter=5).state_dict()
    again = EMA(0.9, buffers="average")
    second = tiny_trainer(again, Evaluation(), max_iter=12)
    second.load_state_dict(state)
    second.train()
    assert again.num_updates == whole.num_updates == 12
    assert_equal(dict(whole.weights), dict(again.weights))


def test_a_state_is_a_copy_for_whoever_loads_it():
    first = EMA(0.9)
    trained(first, max_iter=5)
    second = EMA(0.9)
    second.load_state_dict(first.state_dict())
    kept = {name: value.clone() for name, value in first.weights.items()}
    tiny = tiny_trainer(max_iter=10)
    tiny.register_hook(second, "EMA")
    tiny.train()
    assert_equal(kept, dict(first.weights))


def test_buffers_that_are_averaged_since_the_resume_begin_with_what_they_are():
    first, second = EMA(0.9), EMA(0.9, buffers="average")
    trained(first, max_iter=5)
    second.load_state_dict(first.state_dict())
    trainer = tiny_trainer(second, max_iter=5)
    second.before_train(trainer)
    assert torch.equal(
        trainer.model.state_dict()["layers.1.running_var"], second.weights["layers.1.running_var"]
    )
    assert torch.equal(first.weights["layers.0.weight"], second.weights["layers.0.weight"])


def test_the_average_of_another_model_is_refused():
    first, second = EMA(), EMA()
    trained(first, max_iter=2)
    second.load_state_dict(first.state_dict())
    trainer = tiny_trainer(second, max_iter=2, model=lambda: nn.Linear(1, 1))
    with pytest.raises(
        CheckpointError, match=r"EMA: expected an average of weight of shape \(1, 1\), got none"
    ):
        trainer.train()


# -- getting it ------------------------------------------------------------------------------------


def test_the_averaged_model_is_got_from_a_run_and_evaluated_on_the_command_line(project, capfd):
    config = project({"ema": {"decay": 0.9}}, {"evaluate": {"period": 6}}, "best-checkpoint", "checkpoint")
    trainer = DefaultTrainer(config)
    trainer.train()
    average = load_model("runs/mine/latest", weights_of="ema").state_dict()
    saved = trainer.hooks.get_plugin("ema").weights
    assert set(saved) < set(average)
    assert_equal(dict(saved), {name: average[name] for name in saved})
    for name in average.keys() - saved.keys():  # buffers
        assert torch.equal(trainer.model.state_dict()[name], average[name])
    assert_equal(copied(trainer.model), load_model("runs/mine/latest").state_dict())

    best = trainer.storage.history("eval/total_loss").latest()
    result = CliRunner().invoke(main, ["evaluate", "runs/mine/latest", "--weights-of", "ema"])
    assert '"weights_of": "ema"' in result.output
    assert float(re.search(r'total_loss": ([\d.e-]+)', result.output)[1]) == pytest.approx(best, rel=1e-6)
    raw = CliRunner().invoke(main, ["evaluate", "runs/mine/latest"])
    assert float(re.search(r'total_loss": ([\d.e-]+)', raw.output)[1]) != pytest.approx(best, rel=1e-3)
    assert "also holds: --weights-of ema" in raw.stderr + capfd.readouterr().err


def test_weights_of_a_plugin_that_has_none_are_refused_with_those_there_are(project):
    config = project({"slow": {"use": "ema", "decay": 0.99}}, "checkpoint")
    DefaultTrainer(config).train()
    with pytest.raises(CheckpointError, match=r"weights of 'ema': expected a plugin .* There is: slow\."):
        load_model("runs/mine/latest", weights_of="ema")


def test_training_can_start_from_an_average(project):
    config = project("ema", "checkpoint")
    DefaultTrainer(config).train()
    average = load_model("runs/mine/latest", weights_of="ema").state_dict()
    trainer = DefaultTrainer(config)
    trainer.load_weights("runs/mine/latest", weights_of="ema")
    assert_equal(average, copied(trainer.model))


def test_the_readme_does_what_it_says(project):
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    config = project({"ema": {"decay": 0.999}}, {"evaluate": {"period": 6}}, "best-checkpoint", "checkpoint")
    DefaultTrainer(config).train()
    (command,) = re.findall(r"\$ hookline (.*)", readme)
    assert CliRunner().invoke(main, command.split()).exit_code == 0
    (code,) = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    exec(code, {})


# -- wrong use -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"decay": 1}, r"decay .*expected a number >= 0 and < 1, got 1"),
        ({"decay": -0.1}, "decay"),
        ({"decay": "much"}, "decay"),
        ({"period": -1}, "period"),
        ({"period": 1.5}, "period"),
        ({"warmup": 100}, "warmup"),
        ({"buffers": "keep"}, r"buffers .*expected one of copy, average, got 'keep'"),
        ({"decai": 0.9}, "decay"),
    ],
)
def test_wrong_options_are_told_before_anything_is_built(project, options, said):
    with pytest.raises(ConfigError, match=said):
        DefaultTrainer(project({"ema": options}))


def test_a_period_of_nought_is_refused(project):
    with pytest.raises(PluginError, match=r"period: expected at least 1, got 0\. .* nothing\. It was"):
        DefaultTrainer(project({"ema": {"period": 0}}))


def test_a_period_in_epochs_is_understood(project):
    trainer = DefaultTrainer(project({"ema": {"period": "1 epoch"}}))
    trainer.train()
    assert trainer.hooks.get_plugin("ema").num_updates == 3


# -- everywhere ------------------------------------------------------------------------------------


class Unlike(TinyModel):
    """Has buffers of several dtypes and shapes, in which every rank's forward leaves something else."""

    def __init__(self):
        super().__init__()
        self.register_buffer("wide", torch.zeros((), dtype=torch.float64))
        self.register_buffer("narrow", torch.zeros(2, 3, dtype=torch.bfloat16))
        self.register_buffer("imaginary", torch.zeros(2, dtype=torch.complex64))
        self.register_buffer("total", torch.zeros(2, 2).t())

    def forward(self, batch):
        if self.training:
            for buffer in (self.wide, self.narrow, self.imaginary):
                buffer += batch[0].mean().item()
            self.total = self.total + batch[0].mean()
        return super().forward(batch)


def trained_on_a_rank(buffers, evaluation):
    """Return all that training leaves behind here, what was evaluated, and the average."""
    torch.set_num_threads(1)
    hooks = [] if buffers is None else [EMA(0.9, warmup=False, buffers=buffers)]
    weights = Weights()
    trainer = trained(weights, evaluation, *hooks, max_iter=8, model=Unlike)
    state = hooks[0].state_dict()["model"] if hooks else {}
    assert all(map(torch.equal, state.values(), (hooks[0].weights if hooks else {}).values()))
    return [copied(trainer.model), *weights.trained], weights.evaluated, state


@pytest.mark.parametrize("buffers", ["copy", "average"])
def test_on_several_processes_training_is_as_without_it_to_the_bit(buffers):
    evaluation = Evaluate(3, data="eval")
    without = run_ranks(trained_on_a_rank, None, evaluation)
    assert not torch.equal(without[0][0][-2]["total"], without[1][0][-2]["total"])  # else nothing is tested
    for (expected, _, _), (actual, _, _) in zip(
        without, run_ranks(trained_on_a_rank, buffers, evaluation), strict=True
    ):
        for before, after in zip(expected, actual, strict=True):
            assert_equal(before, after)


def test_what_is_averaged_evaluated_and_saved_is_the_same_on_every_process():
    # An evaluation of one's own does not share buffers, as those of hookline do.
    first, second = run_ranks(trained_on_a_rank, "average", Evaluation(3))
    for mine, theirs in zip(first[1], second[1], strict=True):
        mine, theirs = (
            {name: value for name, value in each.items() if name in first[2]} for each in (mine, theirs)
        )
        assert_equal(mine, theirs)
    assert {"wide", "narrow", "imaginary", "total", "layers.1.running_var"} < first[2].keys()
    assert_equal(first[2], second[2])


def test_the_average_of_buffers_is_that_of_rank_0():
    weights, _, average = run_ranks(trained_on_a_rank, "average", Evaluation(100))[0]
    expected = weights[1]["total"]
    for now in weights[2:]:
        expected = torch.lerp(expected, now["total"], 1 - 0.9)
    assert torch.equal(average["total"], expected)


def test_only_with_an_average_of_buffers_it_communicates():
    assert EMA(buffers="average").collective
    assert not EMA().collective
    with pytest.raises(PluginError, match="It communicates with other ranks"):
        tiny_trainer().register_hook(EMA(buffers="average"), "ema", on_error="disable")


def averaged_on_a_rank() -> list[float]:
    average = EMA(0.9)
    trained(average, Evaluation(), max_iter=6)
    return [float(value.double().sum()) for value in average.weights.values()]


def test_every_process_has_the_same_average():
    first, second = run_ranks(averaged_on_a_rank)
    assert first == second
    assert len(first) == 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_it_stays_on_the_device_and_nothing_waits():
    class Strict(HookBase):
        def before_step(self):
            torch.cuda.set_sync_debug_mode("default")

        def after_step(self):
            torch.cuda.set_sync_debug_mode("error")

    average = EMA(0.9, buffers="average")
    trainer = tiny_trainer(Strict(), average, max_iter=9, device="cuda")
    try:
        trainer.train()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert {value.device.type for value in average.weights.values()} == {"cuda"}
