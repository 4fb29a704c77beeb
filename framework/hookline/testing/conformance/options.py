"""What can be said of a plugin before it runs: its code, and its options from a config file and back."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hookline.config import Epochs, check_options, describe_options, load_config, resolve_target, to_yaml
from hookline.errors import Fault, HooklineError
from hookline.plugins.lint import faults, option_faults
from hookline.purity.digests import digests
from hookline.testing.conformance.subject import Subject, refused

__all__ = ["configured", "linted", "made_and_linted", "periods_fit"]

_ITERS_PER_EPOCH = 8  # of `tiny_data`


def linted(subject: Subject) -> None:
    """Check that nothing in the code would be refused, or ignored in silence; builds nothing."""
    if isinstance(subject.plugin, type):  # __init__ may define hooks, too: that there is none is said later
        found = faults(subject.plugin, subject.name, _kind(subject))
        _raise([fault for fault in found if not fault.got.endswith("implements none")])


def made_and_linted(subject: Subject) -> None:
    """Check the same of what is built."""
    _raise(faults(subject.sample(), subject.name, _kind(subject)))


def configured(subject: Subject) -> Subject:
    """Return the subject with its options as a config file gives them to it.

    They are written to a file and read again; what the plugin is built with must be the same.
    """
    name = subject.name
    section = f"{_kind(subject)}s"
    _raise(list(option_faults(subject.options_of, name, _kind(subject))))
    plain = {key: _as_target(value) for key, value in subject.options.items()}
    direct = _checked(subject, plain)
    read = _through_a_file(section, name, plain)
    options = _checked(subject, read)
    changed = [key for key in {**direct, **options} if not _equal(direct, options, key)]
    if changed:
        got, wanted = options.get(changed[0]), direct.get(changed[0])
        mend = (
            "Annotate the option with a type that a YAML file can hold, such as a number, a string or a list"
        )
        raise refused(f"{name}.{changed[0]}", f"{wanted!r} also from a config file", f"{got!r}", mend)
    lengths = {
        key: value.num_epochs * _ITERS_PER_EPOCH
        for key, value in options.items()
        if isinstance(value, Epochs)
    }
    made = replace(subject, options={**options, **lengths})
    try:
        made.sample()
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        mend = "Only keep the options in __init__, and give those that are required"
        raise refused(name, "a plugin that can be built with its options", got, mend) from error
    return made


def _kind(subject: Subject) -> str:
    return "writer" if subject.is_writer else "hook"


def _raise(found: Sequence[Fault]) -> None:
    if found:
        places = [f" ({fault.file}:{fault.line})" if fault.file else "" for fault in found]
        raise AssertionError("\n".join(f"{fault}{place}" for fault, place in zip(found, places, strict=True)))


def periods_fit(subject: Subject, max_iter: int) -> None:
    """Check that what the plugin does every so many iterations it does within a run."""
    for option in describe_options(subject.options_of):
        value = subject.options.get(option.name, option.default)
        if option.name.endswith("period") and isinstance(value, int) and value > max_iter:
            mend = f"Give assert_plugin_conforms a short one, such as {{{option.name!r}: 2}}"
            expected = f"a period within the {max_iter} iterations of a run"
            raise refused(f"{subject.name}.{option.name}", expected, str(value), mend)


def _checked(subject: Subject, options: Mapping[str, Any]) -> dict[str, Any]:
    given = _with_functions(subject.options_of, options)
    found, problems = check_options(subject.options_of, given, subject.name)
    if problems:
        raise AssertionError("\n".join(str(problem) for problem in problems))
    return found


def _through_a_file(section: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a plugin as they come from a config that was written with them."""
    source: dict[str, Any] = {
        "run": {"name": "conformance"},
        "optimizer": {"target": "torch.optim.SGD"},
        "train": {"max_iter": 1},
        section: [{name: {"use": f"conformance:{name}", **options}}],
    }
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "run.yaml"
            file.write_text(to_yaml(load_config(source)), "utf-8")
            config = load_config(file)
    except HooklineError as error:
        raise AssertionError(str(error)) from error
    return next(spec.options for spec in getattr(config, section) if spec.name == name)


def _as_target(value: Any) -> Any:
    """Return a function as a config names it, and everything else as it is."""
    is_function = callable(value) and hasattr(value, "__qualname__")
    return f"{value.__module__}:{value.__qualname__}" if is_function else value


def _with_functions(fn: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    functions = {option.name for option in describe_options(fn) if "Callable" in option.type}
    return {
        key: resolve_target(value, Path.cwd(), key) if key in functions and isinstance(value, str) else value
        for key, value in options.items()
    }


def _equal(first: Mapping[str, Any], second: Mapping[str, Any], key: str) -> bool:
    if key not in first or key not in second:
        return False
    return first[key] == second[key] or digests({key: first[key]}) == digests({key: second[key]})
