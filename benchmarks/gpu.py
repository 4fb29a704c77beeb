"""The measurements that need a GPU: one command that ends within ten minutes.

    python -m benchmarks.gpu                         # all of it
    python -m benchmarks.gpu --device cpu --tiny     # a rehearsal of every part, anywhere

Needs torch and hookline with its JSON and TensorBoard plugins; nothing is downloaded. What is found is
written after each part, so a run that is cut short loses only the part it was in. Where hookline cannot be
installed with pip, its own folders on ``PYTHONPATH`` do, beside pluggy, click, rich, PyYAML, NumPy,
safetensors, packaging, tensorboard, pydantic, docstring-parser and importlib-metadata::

    PYTHONPATH=framework:plugins/hookline-json/src:plugins/hookline-tensorboard/src python -m benchmarks.gpu
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from benchmarks.cli import RESULTS
from benchmarks.gpu_models import tiny, usual
from benchmarks.gpu_parts import PARTS, Row

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts in turn; exit code 2 where called wrongly, 1 where a part failed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    problem = _problem(options)
    if problem:
        print(problem, file=sys.stderr)
        return 2
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    rows: list[Row] = []
    facts = _facts(arguments, device, options.tiny)
    start = perf_counter()
    for name in options.parts or PARTS:
        seconds = perf_counter() - start
        if seconds > options.limit_s:
            rows.append(Row(name, "", note=f"left out: {seconds:.0f} s had passed"))
        else:
            print(f"{seconds:6.0f} s  {name}", flush=True)
            rows += _run(name, options, device)
        _write(options.results, "rehearsal" if options.tiny else "gpu", facts, rows)
    print(_markdown(facts, rows))
    return int(any(row.note.startswith("failed") for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="Measure hookline beside a plain loop on a GPU."
    )
    add = parser.add_argument
    add("--device", default="cuda", help="default: cuda")
    add("--tiny", action="store_true", help="sizes of a rehearsal: no number of it means anything")
    add("--parts", nargs="+", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    add("--limit-s", type=float, default=540, help="begin no part later than this (default: 540)")
    add("--results", type=Path, default=RESULTS, metavar="FOLDER", help="default: benchmarks/results")
    return parser


def _problem(options: argparse.Namespace) -> str:
    unknown = [part for part in options.parts or () if part not in PARTS]
    if unknown:
        return f"--parts: expected some of {', '.join(PARTS)}, got {unknown[0]!r}."
    if not options.device.startswith(("cpu", "cuda")):
        return f"--device: expected cuda, cuda:N or cpu, got {options.device!r}."
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        return (
            f"--device: expected a device that is here, got {options.device!r}. "
            "Rehearse with --device cpu --tiny."
        )
    return ""


def _run(name: str, options: argparse.Namespace, device: torch.device) -> list[Row]:
    """Return the rows of one part; those before a failure count, and the failure is one more."""
    rows: list[Row] = []
    try:
        with redirect_stdout(io.StringIO()):  # what Progress prints
            for row in PARTS[name](tiny if options.tiny else usual, device):
                rows.append(row)
                print(f"        {row.part}: {row.what}: {row.value} {row.ratio} {row.note}", file=sys.stderr)
    except Exception as error:
        traceback.print_exc()
        rows.append(Row(name, "", note=f"failed: {type(error).__name__}: {error}"))
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return rows


def _facts(arguments: Sequence[str], device: torch.device, is_tiny: bool) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {
        "date": date.today().isoformat(),
        "command": " ".join(["python -m benchmarks.gpu", *arguments]),
        "device": name,
        "rehearsal": is_tiny,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def _write(folder: Path, name: str, facts: dict[str, Any], rows: Sequence[Row]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    raw = {**facts, "rows": [asdict(row) for row in rows]}
    (folder / f"{name}.json").write_text(json.dumps(raw, indent=1) + "\n")
    (folder / f"{name}.md").write_text(_markdown(facts, rows))


def _markdown(facts: dict[str, Any], rows: Sequence[Row]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    warning = "A rehearsal: no number below means anything.\n\n" if facts["rehearsal"] else ""
    head = f"{warning}Measured on {facts['date']} with `{facts['command']}`: {facts['device']}, {versions}.\n"
    lines = ["| part | contender | iteration | ÷ plain loop | |", "|---|---|---:|---:|---|"]
    lines += [f"| {row.part} | {row.what} | {row.value} | {row.ratio} | {row.note} |" for row in rows]
    return "\n".join([head, *lines]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
