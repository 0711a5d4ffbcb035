"""etcd's messages as classes, built at import from the committed descriptor set: the code works with any protobuf from 4.25 on.

The numbers are etcd's public API (``etcd.proto``); ``regenerate.py`` compiles them anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def _load() -> dict[str, Any]:
    files = descriptor_pb2.FileDescriptorSet.FromString(Path(__file__).with_name("etcd.binpb").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    classes: dict[str, Any] = {}
    for file in files.file:
        pool.AddSerializedFile(file.SerializeToString())
        for message in file.message_type:
            descriptor = pool.FindMessageTypeByName(f"{file.package}.{message.name}")
            classes[message.name] = message_factory.GetMessageClass(descriptor)
    return classes


_CLASSES = _load()


def __getattr__(name: str) -> Any:
    """``etcd_proto.RangeRequest`` and every other message of ``etcd.proto``."""
    try:
        return _CLASSES[name]
    except KeyError:
        raise AttributeError(f"etcd.proto declares no message {name}") from None
