"""What is printed when nobody reads it."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("call", ["console().print", "print_line"])
def test_a_reader_that_leaves_ends_nothing(call):
    code = (
        "import sys, time\n"
        "from hookline.console import console, print_line\n"
        "for number in range(200):\n"
        f"    {call}('x' * 1000)\n"
        "print('went on', file=sys.stderr)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == "went on\n"
    assert process.wait() == 0
    process.stderr.close()


def test_a_terminal_without_arrows_shows_a_question_mark(tmp_path):
    code = "import sys; from hookline.cli import main; main(['plugins', 'list'], standalone_mode=False); print('→')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONIOENCODING": "cp1252", "PATH": ""},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(b"?")
