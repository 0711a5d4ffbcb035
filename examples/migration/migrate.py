"""Stands for `migrate the database`: fails when the environment says so, as migrations do."""

import os
import sys

if os.environ.get("FAIL"):
    sys.exit("migration failed: FAIL is set")
print("migrated")
