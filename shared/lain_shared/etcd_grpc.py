"""gRPC, told to be quiet before it is loaded: it would write plain text among our JSON lines, and what fails our errors say."""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import grpc.aio

__all__ = ["grpc"]
