"""``python -m benchmarks``."""

import signal
import sys

from benchmarks.cli import main

if __name__ == "__main__":
    for end in (signal.SIGINT, signal.SIGTERM):  # In the background, too: what was measured is written then.
        signal.signal(end, signal.default_int_handler)
    sys.exit(main())
