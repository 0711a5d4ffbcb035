"""A migration: does nothing, or fails as ``FAULT`` says."""

import os
import sys

if os.environ["FAULT"] == "migration":
    print("column users.age exists already", flush=True)
    sys.exit(7)
print("nothing to migrate", flush=True)
