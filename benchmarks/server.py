"""A process that has imported one contender's library, and forks a fresh process for each run.

    python -m benchmarks.server bare

Reads orders, one JSON object a line, and answers each with a line. A fork begins where the import ended:
nothing of one run is left in the next, and nobody waits seconds for torch each time.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.measure import Order, measure

__all__ = ["serve"]

_LONGEST_S = 600  # Then a run is killed, and counts as failed: one that hangs must not hold up the others.


def serve(module_name: str) -> None:
    """Import the contender, say how long that took, and run what is ordered until there is no more."""
    import torch
    import torch._dynamo  # An optimizer's first step imports it otherwise: a second of every run.

    start = perf_counter()
    module = importlib.import_module(f"benchmarks.{module_name}")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Whatever a library prints must not be taken for an answer.
    print(json.dumps({"import_s": perf_counter() - start}), file=answers, flush=True)
    torch.set_num_threads(1)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(_in_a_fork(module, asked)), file=answers, flush=True)


def _in_a_fork(module: Any, asked: dict[str, Any]) -> dict[str, Any]:
    folder = Path(asked["order"]["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child == 0:
        _run_and_exit(module, asked, folder)
    _, status = os.waitpid(child, 0)
    result = folder / "result.json"
    if status or not result.exists():
        log = (folder / "log.txt").read_text(errors="replace")
        return {"error": f"exit status {status}", "log": log[-3000:]}
    return json.loads(result.read_text())


def _run_and_exit(module: Any, asked: dict[str, Any], folder: Path) -> None:
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    null = os.open(os.devnull, os.O_RDONLY)
    signal.alarm(_LONGEST_S)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        measured = measure(lambda task: module.run(task, **asked["options"]), Order(**asked["order"]))
        (folder / "result.json").write_text(json.dumps(measured))
        code = 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Not sys.exit: the child must not go on with the parent's stdin.


if __name__ == "__main__":
    serve(sys.argv[1])
