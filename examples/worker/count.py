"""Counts its own starts in a file that outlives it."""

import pathlib
import signal
import sys
import time

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
file = pathlib.Path("/lain/app/data/starts")
starts = int(file.read_text()) + 1 if file.exists() else 1
file.write_text(str(starts))
print(f"start number {starts}")
while True:
    time.sleep(1)
