import copy
import random
import threading

import numpy as np
import pytest
import torch
from torch import nn

from hookline import distributed
from hookline.data import Loader
from hookline.errors import ConfigError, RunError, notes
from hookline.evaluation import evaluate, evaluation_state, load_evaluation_state


class Model(nn.Module):
    """Returns whatever ``output`` makes of a batch."""

    def __init__(self, output):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.frozen = nn.BatchNorm1d(1)
        self.output = output

    def forward(self, batch):
        return self.output(batch)


class Accuracy:
    def reset(self):
        self.num_right = self.num_items = 0

    def update(self, predictions, labels):
        self.num_right += int((predictions == labels).sum())
        self.num_items += len(labels)

    def compute(self):
        return self.num_right / self.num_items

    def merge(self, other):
        self.num_right += other.num_right
        self.num_items += other.num_items


class Returns:
    """A metric that measures nothing and returns ``result``."""

    def __init__(self, result):
        self.result = result

    def reset(self):
        pass

    def update(self):
        pass

    def compute(self):
        return self.result


def classified(batch):
    labels = torch.tensor(batch)
    return {"loss": labels.float().mean(), "predictions": labels.clamp(max=2), "labels": labels}


def test_a_plain_loss_is_averaged_over_batches():
    assert evaluate(Model(torch.tensor), [1.0, 2.0, 6.0]) == {"total_loss": 3.0}


def test_losses_are_weighted_by_the_items_they_are_means_over():
    def output(batch):
        return {"loss": torch.tensor(batch).mean(), "num_items": len(batch)}

    assert evaluate(Model(output), [[1.0, 2.0, 3.0], [10.0]]) == {"total_loss": 4.0}


def test_the_number_of_items_may_be_a_tensor_and_is_no_loss():
    def output(batch):
        return {"loss": torch.tensor(batch).mean(), "num_items": torch.tensor(float(len(batch)))}

    assert evaluate(Model(output), [[1.0, 2.0, 3.0], [10.0]]) == {"total_loss": 4.0}


def test_several_losses_are_named_and_summed():
    def output(batch):
        return {"a": torch.tensor(batch), "b": torch.tensor(2 * batch), "logits": torch.zeros(3)}

    assert evaluate(Model(output), [1.0, 3.0]) == {"total_loss": 6.0, "a": 2.0, "b": 4.0}


def test_half_precision_losses_are_summed_in_full():
    def output(batch):
        return {"a": torch.tensor(60000.0).half(), "b": torch.tensor(60000.0).half()}

    assert evaluate(Model(output), [0])["total_loss"] == 2 * torch.tensor(60000.0).half().item()


def test_means_of_many_batches_are_exact():
    # In float32 2**24 + 1 is 2**24.
    losses = [float(2**24)] + [1.0] * 7
    assert evaluate(Model(torch.tensor), losses)["total_loss"] == (2**24 + 7) / 8


def test_a_non_finite_loss_is_not_hidden():
    assert np.isnan(evaluate(Model(torch.tensor), [1.0, float("nan")])["total_loss"])


def test_a_metric_takes_outputs_by_the_names_of_its_parameters():
    results = evaluate(Model(classified), [[0, 1, 2], [3]], {"accuracy": Accuracy()})
    assert results == {"total_loss": 2.0, "accuracy": 0.75}


def test_a_metric_may_take_losses_and_leave_out_what_has_a_default():
    class Perplexity(Accuracy):
        def update(self, loss, mask=None, *args):
            assert mask is None
            self.num_right, self.num_items = loss.exp(), 1

    assert evaluate(Model(classified), [[0]], {"perplexity": Perplexity()})["perplexity"] == 1.0


def test_a_metric_that_takes_any_keyword_gets_all_outputs():
    class Collection(Returns):
        def update(self, **outputs):
            self.result = {"names": len(outputs), "right": "labels" in outputs}

    results = evaluate(Model(classified), [[0]], {"all": Collection(None)})
    assert results == {"total_loss": 0.0, "all/names": 3.0, "all/right": 1.0}


def test_metrics_alone_are_enough():
    assert evaluate(Model(lambda batch: {"x": batch}), [1], {"m": Returns(3)}) == {"m": 3.0}


def test_nested_results_are_flattened():
    result = {"top1": torch.tensor(0.5), "by_class": {"cat": np.float32(1), 7: 2}}
    results = evaluate(Model(torch.tensor), [1.0], {"accuracy": Returns(result)})
    assert results == {
        "total_loss": 1.0, "accuracy/top1": 0.5, "accuracy/by_class/cat": 1.0, "accuracy/by_class/7": 2.0,
    }  # fmt: skip
    assert all(type(value) is float for value in results.values())


def test_a_metric_starts_afresh_in_every_evaluation_and_keeps_nothing():
    accuracy = Accuracy()
    accuracy.num_right, accuracy.num_items = 100, 100
    for _ in range(2):
        assert evaluate(Model(classified), [[3], [1]], {"a": accuracy})["a"] == 0.5
        assert accuracy.num_items == 0


def test_a_metric_that_is_a_module_goes_to_the_device():
    class OnDevice(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(()))

        def reset(self):
            self.total = torch.zeros_like(self.total)

        def update(self):
            pass

        def compute(self):
            return {"is_meta": self.total.is_meta}

    model = Model(lambda batch: {"x": batch})
    assert evaluate(model, [1], {"m": OnDevice()}, device="meta") == {"m/is_meta": 1.0}


def test_outputs_that_a_metric_misses_are_named_with_what_there_is():
    class Wrong(Accuracy):
        def update(self, predictions, label, mask):
            raise AssertionError

    with pytest.raises(ConfigError) as caught:
        evaluate(Model(classified), [[0]], {"wrong": Wrong()})
    first, second = map(str, caught.value.problems)
    assert first == (
        "metrics.wrong: expected a model output named 'label', which Wrong.update takes, got nothing. "
        "In eval mode the model returned loss, predictions, labels. Did you mean 'labels'?"
    )
    assert "'mask'" in second


def test_an_error_in_a_metric_names_the_metric():
    class Broken(Accuracy):
        def update(self, labels):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        evaluate(Model(classified), [[0]], {"broken": Broken()})
    assert notes(caught.value) == ["In the metric 'broken', whose update was given labels."]


@pytest.mark.parametrize(
    ("result", "shown"),
    [(torch.zeros(3), r"'Tensor of shape \(3,\)'"), ("good", "'str'"), (None, "'NoneType'")],
)
def test_a_result_that_is_not_a_number_is_refused(result, shown):
    with pytest.raises(ConfigError, match=rf"metrics\.m/a: expected a number, .* got {shown}"):
        evaluate(Model(torch.tensor), [1.0], {"m": Returns({"a": result})})


def test_a_metric_with_the_name_of_a_loss_is_refused():
    with pytest.raises(ConfigError, match=r"metrics\.total_loss: expected a name that no loss has"):
        evaluate(Model(torch.tensor), [1.0], {"total_loss": Returns(1)})


@pytest.mark.parametrize("metric", [object(), Accuracy])
def test_what_is_not_a_metric_is_refused_before_anything_runs(metric):
    with pytest.raises(ConfigError, match="an object with update, compute and reset"):
        evaluate(Model(lambda batch: 1 / 0), [1], {"m": metric})


def test_an_unknown_precision_is_refused():
    with pytest.raises(
        ConfigError, match=r"evaluate\.precision: expected one of fp32, bf16, fp16, got 'int8'"
    ):
        evaluate(Model(torch.tensor), [1.0], precision="int8")


@pytest.mark.parametrize("output", [torch.zeros(2), torch.tensor(1), 1.0, None, (torch.zeros(()),)])
def test_a_model_that_returns_no_loss_is_told_what_to_return(output):
    with pytest.raises(
        ConfigError, match=r"Model\(batch\) in eval mode: expected a 0-D floating-point loss, or"
    ):
        evaluate(Model(lambda batch: output), [1])


def test_a_sum_among_its_parts_is_refused():
    output = {"total_loss": torch.tensor(2.0), "a": torch.tensor(2.0)}
    with pytest.raises(ConfigError, match="Leave 'total_loss' out: it is their sum"):
        evaluate(Model(lambda batch: output), [1])


def test_nothing_to_measure_is_refused():
    with pytest.raises(ConfigError, match="expected a loss from the model in eval mode, or a metric"):
        evaluate(Model(lambda batch: {"logits": batch}), [1])


def test_no_batch_is_an_error():
    with pytest.raises(RunError, match="expected at least one batch, got none from list"):
        evaluate(Model(torch.tensor), [], {"accuracy": Accuracy()})


@pytest.mark.parametrize("fails", [False, True])
def test_every_submodule_gets_its_own_mode_back(fails):
    def output(batch):
        assert not any(module.training for module in model.modules())
        return torch.tensor(1 / batch)

    model = Model(output).train()
    model.frozen.eval()
    if fails:
        with pytest.raises(ZeroDivisionError):
            evaluate(model, [1.0, 0.0])
    else:
        evaluate(model, [1.0])
    assert (model.training, model.layer.training, model.frozen.training) == (True, True, False)


def test_no_gradients_are_kept():
    kept = []
    model = Model(lambda batch: kept.append(model.layer(batch)) or kept[-1].mean())
    evaluate(model, [torch.ones(1, 1)])
    assert not kept[0].requires_grad
    assert not kept[0].is_inference()


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_forward_runs_in_the_precision_given_and_metrics_outside_it(precision, dtype):
    class Dtypes(Returns):
        def update(self, y):
            self.result = {
                "forward": y.dtype == dtype,
                "metric": (torch.ones(1, 1) @ torch.ones(1, 1)).dtype == torch.float32,
            }

    model = Model(lambda batch: {"y": model.layer(batch)})
    results = evaluate(model, [torch.ones(1, 1)], {"is": Dtypes(None)}, precision=precision)
    assert results == {"is/forward": 1.0, "is/metric": 1.0}


def test_batches_go_to_the_device():
    model = Model(lambda batch: {"is_meta": batch["x"][0].is_meta})

    class Device(Returns):
        def update(self, is_meta):
            self.result = is_meta

    assert evaluate(model, [{"x": [torch.ones(1)]}], {"m": Device(None)}, device="meta") == {"m": 1.0}


def test_max_batches_ends_it_early_and_takes_no_batch_more():
    batches = iter([1.0, 2.0, 9.0, 9.0])
    assert evaluate(Model(torch.tensor), batches, max_batches=2) == {"total_loss": 1.5}
    assert next(batches) == 9.0


def test_every_evaluation_sees_the_same_batches_of_a_loader():
    loader = Loader(list(range(100)), batch_size=2)
    results = [evaluate(Model(lambda x: x.double().mean()), loader, max_batches=3) for _ in range(3)]
    assert results[0] == results[1] == results[2]


def test_nothing_is_drawn_from_global_generators():
    model = Model(classified)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    evaluate(model, [[0, 1]], {"accuracy": Accuracy()})
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.fixture
def on_ranks(monkeypatch):
    """Return a function that runs another on two ranks, which are threads, and returns both results."""
    rank, barrier, box = threading.local(), threading.Barrier(2, timeout=20), [None, None]

    def gather(value):
        box[rank.number] = value
        barrier.wait()
        values = copy.deepcopy(box)  # what comes from another process is a copy
        barrier.wait()
        return values

    def run(function):
        results = [None, None]

        def body(number):
            rank.number = number
            try:
                results[number] = function(number)
            except Exception as error:
                results[number] = error

        threads = [threading.Thread(target=body, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "gather", gather)
    return run


def test_ranks_with_unequal_shares_get_the_result_of_one_process(on_ranks):
    def output(batch):
        return {"a": batch.double().mean(), "b": batch.sum() * 0.1, "num_items": len(batch)} | {
            "predictions": batch.clamp(max=5), "labels": batch,
        }  # fmt: skip

    data = list(range(9))
    options = {"batch_size": 2, "shuffle": False, "pad": False}
    first, second = on_ranks(
        lambda rank: evaluate(
            Model(output), Loader(data, **options, rank=rank, world_size=2), {"accuracy": Accuracy()}
        )
    )
    assert first == second
    assert (first["a"], first["accuracy"]) == (4.0, 6 / 9)
    assert first["total_loss"] == pytest.approx(first["a"] + first["b"])


def test_a_rank_without_batches_takes_part(on_ranks):
    first, second = on_ranks(lambda rank: evaluate(Model(torch.tensor), [] if rank else [2.0, 4.0]))
    assert first == second == {"total_loss": 3.0}


def test_ranks_without_any_batch_all_raise(on_ranks):
    assert [type(result) for result in on_ranks(lambda rank: evaluate(Model(torch.tensor), []))] == [
        RunError
    ] * 2


def test_a_metric_that_cannot_be_combined_is_refused_on_several_ranks(on_ranks):
    for result in on_ranks(lambda rank: evaluate(Model(torch.tensor), [1.0], {"m": Returns(1)})):
        assert "m: expected a metric that can be combined over 2 ranks" in str(result)
        assert "merge(self, other)" in str(result)


def test_a_metric_that_syncs_itself_is_left_alone(on_ranks):
    class Member(nn.Module, Returns):
        def __init__(self):
            super().__init__()
            self.result = 5

        def sync(self):
            raise AssertionError

    class Collection(nn.Module, Returns):
        def __init__(self):
            super().__init__()
            self.member, self.result = Member(), {"member": 5}

    metrics = {"one": Member(), "many": Collection()}
    for result in on_ranks(lambda rank: evaluate(Model(torch.tensor), [1.0], metrics)):
        assert result == {"total_loss": 1.0, "one": 5.0, "many/member": 5.0}


def test_what_outlasts_an_evaluation_is_saved_and_what_it_resets_is_not():
    class Best(Accuracy):
        best = 0.0

        def state_dict(self):
            return {"best": self.best}

        def load_state_dict(self, state):
            self.best = state["best"]

    class Module(nn.Module, Accuracy):
        def __init__(self):
            super().__init__()
            self.large = nn.Linear(9, 9)

    loader = torch.utils.data.DataLoader([1.0], generator=torch.Generator().manual_seed(3))
    metrics = {"best": Best(), "plain": Accuracy(), "module": Module()}
    metrics["best"].best = 0.5
    state = evaluation_state(loader, metrics)
    assert state["metrics"] == {"best": {"best": 0.5}}
    first = torch.rand((), generator=loader.generator)
    restored = {"best": Best(), "other": Best()}
    load_evaluation_state(loader, restored, {**state, "metrics": {**state["metrics"], "gone": {}}})
    assert (restored["best"].best, restored["other"].best) == (0.5, 0.0)
    assert torch.rand((), generator=loader.generator) == first


def test_the_next_evaluation_sees_what_it_would_have_seen_had_its_workers_stayed():
    def shuffled():
        torch.manual_seed(3)
        return torch.utils.data.DataLoader(range(12), 4, shuffle=True, num_workers=1, persistent_workers=True)

    loader = shuffled()
    list(loader)
    state, then = evaluation_state(loader, {}), torch.get_rng_state()
    expected = [batch.tolist() for batch in loader]
    restored = shuffled()
    torch.set_rng_state(then)
    load_evaluation_state(restored, {}, state)
    assert [batch.tolist() for batch in restored] == expected
