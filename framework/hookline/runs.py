"""Which of the runs on the disk a person means."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hookline.durable import make_directory, sync_directory
from hookline.errors import Problem, RunError, did_you_mean
from hookline.rundir import RunDir, check_name, is_run, kind_at, unwritable

__all__ = ["LATEST", "find", "link_checkpoints", "newest", "resumable", "unfinished"]

LATEST = "latest"

_NUM_SHOWN = 5
_RUN = "run"  # in a folder of checkpoints elsewhere: the link back to the run


def find(spec: str, parent: Path, name: str | None = None, *, asked: Sequence[str] = ()) -> RunDir:
    """Return the run that ``spec`` means: ``latest``, or a path of a run or of anything inside one.

    Args:
        spec: ``latest`` is the newest run of ``name``, or of all names where that is None.
        parent: The directory of all runs, ``run.dir``.
        name: The run's name, ``run.name``.
        asked: For an error: the option that ``spec`` is of, and the words besides ``latest`` that it takes.

    Raises:
        RunError: If there is no such run; says which there are.
    """
    if spec == LATEST:
        return _latest(Path(parent), name)
    path = _followed(Path(spec))
    # A run, its checkpoints, one of them: no further up, where a stranger's status.json may be.
    run = next((run for place in [path, *path.parents][:3] if is_run(run := _owner(place))), None)
    if run is None or not path.exists():
        raise _no_run(spec, path, RunDir(run) if run else None, Path(parent), asked)
    return RunDir(run)


def resumable(spec: str, parent: Path, name: str) -> RunDir:
    """Return the run that ``spec`` means, as `find` does; ``latest`` rather one that has checkpoints.

    A later start that failed before its first checkpoint does not hide the run before it.
    """
    found = find(spec, parent, name, asked=("--resume", "auto"))
    if spec != LATEST or found.has_checkpoints:
        return found
    others = (RunDir(path) for path in _runs(found.path.parent))
    return max((run for run in others if run.has_checkpoints), key=lambda run: run.id, default=found)


def newest(parent: Path, name: str) -> RunDir | None:
    """Return the newest run of ``name``; None if there is none."""
    check_name(name, "run.name")
    path = _latest_of(Path(parent).resolve() / name)
    return None if path is None else RunDir(path)


def unfinished(parent: Path, name: str) -> RunDir | None:
    """Return the newest run of ``name`` that is neither finished nor stopped; None if there is none.

    Raises:
        RunError: If another process trains in it.
    """
    last = newest(parent, name)
    runs = [run for run in map(RunDir, _runs(Path(parent).resolve() / name)) if not run.is_complete]
    found = last if last in runs else max(runs, key=lambda run: run.id, default=None)
    if found is not None:
        found.check_free()
    return found


def link_checkpoints(run: RunDir, parent: Path, where: str) -> None:
    """Make ``checkpoints`` of ``run`` a link to a folder of its own below ``parent``, if it is not one yet.

    Args:
        run: Whose checkpoints.
        parent: Gets ``<run name>/<run id>``, in which the link ``run`` leads back.
        where: What asks for it, for an error.

    Raises:
        RunError: If the run has its checkpoints elsewhere, the folder is another run's, or it cannot be made.
    """
    place, parent = run.checkpoints, Path(parent).resolve()
    folder = Path(os.path.realpath(place)) if place.is_symlink() else parent / run.name / run.id
    owner = _owner(folder)
    exists = ""
    if folder == run.path.resolve():
        exists = "That is where its runs are"
    elif folder.parents[1] != parent or (place.is_dir() and not place.is_symlink()):
        exists = f"It has them in {os.path.realpath(place)}"
    elif owner not in (folder, run.path.resolve()) and owner.exists():
        exists = f"{folder} is that of {owner}"
    if exists:
        rule = f"a folder for the checkpoints of {run.path} alone"
        fix = "Leave it as it was when the run began, or start a run of its own"
        raise RunError(str(Problem(f"{where}.dir", rule, str(parent), exists, fix)))
    try:
        make_directory(folder)
        for link, target in ((folder / _RUN, run.path.resolve()), (place, folder)):
            if not link.is_symlink() or Path(os.readlink(link)) != target:
                link.unlink(missing_ok=True)
                link.symlink_to(target, target_is_directory=True)
                sync_directory(link.parent)
    except OSError as error:
        raise unwritable(f"{where}.dir {parent}", "a folder with links", error) from error


def _owner(place: Path) -> Path:
    """Return the run that keeps its checkpoints in the folder ``place``; of any other folder itself."""
    link = place / _RUN
    is_folder = link.is_symlink() and is_run(place) and not (place / "status.json").is_file()
    return Path(os.path.realpath(link)) if is_folder else place


def _no_run(spec: str, path: Path, run: RunDir | None, parent: Path, asked: Sequence[str]) -> RunError:
    """Return the error for ``spec``, which leads to ``path``: in no run, or to nothing in ``run``."""
    option, words = asked[:1], [*asked[1:], LATEST]
    fix = did_you_mean(spec, words, cutoff=0.7)  # not 'latest' for 'best'
    if run is not None and run.has_checkpoints:
        names = {file.name for file in run.checkpoints.glob("[!.]*")} - {_RUN}
        exists = f"There is: {', '.join(sorted(names))}"
    else:
        exists = _existing(path if path.is_dir() else parent)
        if not fix and Path(spec).name == spec:
            fix = f"Name a checkpoint by its path, such as {parent}/…/checkpoints/best"
    rule = f"{', '.join(words)}, a run directory or a path in one"
    return RunError(str(Problem(" ".join([*option, spec]), rule, kind_at(path), exists, fix)))


def _latest(parent: Path, name: str | None) -> RunDir:
    names = _directories(parent)
    runs = [run for place in names if name in (None, place.name) and (run := _latest_of(place))]
    if not runs:
        fix = did_you_mean(name, [place.name for place in names if _runs(place)]) if name else ""
        where, exists = parent / name if name else parent, _existing(parent)
        problem = Problem(f"latest run in {where}", "a run", missing=True, exists=exists, fix=fix)
        raise RunError(str(problem))
    return RunDir(max(runs, key=lambda run: run.name))


def _latest_of(place: Path) -> Path | None:
    # The link is right where names are not: when the clock was set back.
    pointed = _followed(place / LATEST)
    return pointed if is_run(pointed) else max(_runs(place), default=None)


def _followed(path: Path) -> Path:
    """Return what ``path`` leads to, links followed; where there can be none, ``latest`` is a file."""
    if path.name == LATEST and path.is_file():
        with suppress(OSError, UnicodeDecodeError, RunError), open(path, encoding="utf-8") as file:
            name = file.read(200).strip()
            check_name(name, LATEST)
            path = path.parent / name
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a link that leads to itself
        return path.absolute()


def _directories(path: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(
            entry.resolve() for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink()
        )
    return []


def _runs(path: Path) -> list[Path]:
    return [entry for entry in _directories(path) if is_run(entry) and _owner(entry) == entry]


def _existing(path: Path) -> str:
    runs = [run for place in [path, *_directories(path)] for run in _runs(place)]
    newest = sorted(runs, key=lambda run: run.name)[-_NUM_SHOWN:]
    shown = ", ".join(f"{run.parent.name}/{run.name}" for run in newest)
    where = path if path.name else path.absolute()  # a lone dot is lost in a sentence
    return f"Newest runs in {where}: {shown}" if shown else f"{where} has no runs"
