"""Compile ``etcd.proto`` into ``etcd.binpb`` (needs ``pip install grpcio-tools``; nothing at run time does).

Run: ``python -m lain_shared.etcd_proto.regenerate``. The result is a descriptor set, which every protobuf from 4.25 on can read, where
generated Python code is tied to the release of the compiler that made it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    """Returns the compiler's exit code."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{HERE}", f"--descriptor_set_out={HERE / 'etcd.binpb'}", "etcd.proto"]
    return subprocess.run(command, check=False).returncode  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
