"""The state of plugins in a checkpoint of a trainer that has no config."""

from __future__ import annotations

import pytest

from hookline import CheckpointError, HookBase, PluginError
from hookline.errors import notes
from hookline.plugins import HookManager, is_stateful, load_states, states


class Counter(HookBase):
    state_version = 3

    def __init__(self, count=0):
        self.count = count

    def before_train(self):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class Forgetful(HookBase):
    def before_train(self):
        pass


def manager(policy=None, **plugins):
    made = HookManager()
    for name, plugin in plugins.items():
        made.add(plugin, name, on_error=policy)
    return made


def test_only_a_plugin_with_both_methods_is_stateful():
    assert is_stateful(Counter())
    assert not is_stateful(Forgetful())


def test_states_come_back_by_instance_name():
    saved = states(manager(a=Counter(1), b=Counter(2), c=Forgetful()))
    assert saved == {name: {"version": 3, "state": {"count": n}} for name, n in [("a", 1), ("b", 2)]}
    a, b = Counter(), Counter()
    load_states(manager(b=b, a=a), saved)
    assert (a.count, b.count) == (1, 2)


def test_a_state_that_is_gone_or_missing_is_told(caplog):
    load_states(manager(b=Counter()), states(manager(a=Counter())))
    assert [record.getMessage() for record in caplog.records] == [
        "The checkpoint holds the state of plugin 'a', which is not enabled now.",
        "The checkpoint holds no state of plugin 'b': it starts anew.",
    ]


def test_none_means_that_somebody_has_said_so(caplog):
    counter = Counter(7)
    load_states(manager(a=counter), {"a": None})
    assert counter.count == 7
    assert not caplog.records


def test_a_state_of_another_version_is_refused():
    saved = {"a": {"version": 2, "state": {"count": 1}}}
    with pytest.raises(CheckpointError, match="a: expected state of version 3, got version 2"):
        load_states(manager(a=Counter()), saved)


def test_a_state_that_is_no_mapping_is_refused_when_it_is_saved():
    counter = Counter()
    counter.state_dict = lambda: None
    with pytest.raises(PluginError, match=r"c \(.*\): expected a mapping from state_dict, got None"):
        states(manager(c=counter))


def test_a_plugin_that_cannot_take_its_state_is_named_with_the_line():
    saved = states(manager(c=Counter()))
    del saved["c"]["state"]["count"]
    with pytest.raises(CheckpointError, match=r"c .*KeyError: 'count'.*test_plugins_state.py:\d+") as caught:
        load_states(manager(c=Counter()), saved)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_plugin_whose_state_cannot_be_had_is_named():
    counter = Counter()
    counter.state_dict = lambda: {}["gone"]
    with pytest.raises(KeyError) as caught:
        states(manager(c=counter))
    (note,) = notes(caught.value)
    assert note.startswith("Raised by plugin 'c' (")
    assert note.endswith("), state_dict")


class Fails(Counter):
    def before_train(self):
        raise OSError("no network")


@pytest.mark.parametrize(("policy", "num_calls"), [("disable", 1), ("retry", 3)])
def test_a_plugin_that_was_switched_off_is_so_after_a_resume(caplog, policy, num_calls):
    first = manager(policy, a=Fails(), b=Counter())
    for _ in range(num_calls):
        first.call("before_train", trainer=None)
    second = manager(policy, a=Fails(), b=Counter())
    caplog.clear()
    load_states(second, states(first))
    (line,) = caplog.messages
    assert line.startswith("a is switched off, as it was: OSError: no network (Raised by plugin 'a'")
    assert line.endswith("To have it again, change its on_error or another option.")
    assert (second.names(), second.switched_off) == (["b"], first.switched_off)
    assert states(second) == states(first)


def test_a_plugin_that_is_retried_is_switched_off_at_its_third_failure_across_a_resume():
    first, second = manager("retry", a=Fails()), manager("retry", a=Fails())
    first.call("before_train", trainer=None)
    load_states(second, states(first))
    second.call("before_train", trainer=None)
    assert second.names() == ["a"]
    second.call("before_train", trainer=None)
    assert second.names() == []


def test_with_another_policy_a_plugin_that_was_switched_off_is_on_again():
    first, second = manager("disable", a=Fails()), manager("retry", a=Fails())
    first.call("before_train", trainer=None)
    load_states(second, states(first))
    assert (second.names(), second.failures) == (["a"], {})


def test_a_plugin_that_is_added_again_has_not_failed():
    hooks = manager("disable", a=Fails())
    hooks.call("before_train", trainer=None)
    hooks.add(Fails(), "a")
    assert (hooks.plugins_off, hooks.failures) == ({}, {})
