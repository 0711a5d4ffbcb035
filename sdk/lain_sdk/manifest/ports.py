"""``port`` (what a proc listens on) and ``ports`` (ports of the whole cluster that lead to it), in all their written forms."""

from __future__ import annotations

import re
from types import MappingProxyType

from lain_sdk.manifest.parts import Port, StreamPort
from lain_sdk.manifest.reading import Kind, Spot
from lain_sdk.manifest.source import Shape
from lain_sdk.manifest.values import raw_text

_PORT = re.compile(r"(?P<number>[0-9]{1,5})(?::(?P<proto>[a-z]+))?\Z")
_STREAM = re.compile(r"(?P<source>[0-9]+)(?::(?P<target>[0-9]+))?(?:/(?P<proto>[A-Za-z]+))?\Z")
PROTOCOLS = ("tcp", "udp")
STREAM_FIRST, STREAM_LAST = 9500, 10000
_PORT_ALLOWED = "a port 1 to 65535, `80:tcp`, `{80: ['type:tcp']}`, or a list of these; types: tcp, udp"
_STREAM_ALLOWED = f"`source[:target][/tcp|udp]`: source {STREAM_FIRST} to {STREAM_LAST}, target 1 to 65535; in a map, a list, or alone"


def _number(spot: Spot, digits: str, least: int, most: int) -> int | None:
    value = int(digits) if len(digits) <= 5 else most + 1
    if digits.startswith("0") or not least <= value <= most:
        spot.refuse("the port is out of range", allowed=f"{least} to {most}", found=digits[:20])
        return None
    return value


def _listening(spot: Spot, written: str, proto: str = "") -> Port | None:
    found = _PORT.match(written)
    if not found:
        spot.refuse("this is no port", allowed=_PORT_ALLOWED)
        return None
    proto = found["proto"] or proto or "tcp"
    if proto not in PROTOCOLS:
        spot.refuse("there is no such port type", found=proto, allowed="tcp or udp")
        return None
    number = _number(spot, found["number"], 1, 65535)
    return None if number is None else Port(number, proto)


def _listening_map(spot: Spot) -> list[Port | None]:
    ports: list[Port | None] = []
    for at_key, at_value in spot.entries():
        proto = ""
        if at_value.node.shape is Shape.LIST:
            for one in at_value.items():
                option = raw_text(one, allowed="`type:tcp` or `type:udp`")
                if option is None:
                    continue
                name, _, value = option.partition(":")
                if name.strip() != "type" or value.strip() not in PROTOCOLS:
                    one.refuse("there is no such port option", allowed="`type:tcp` or `type:udp`")
                    ports.append(None)
                    continue
                proto = value.strip()
        elif not at_value.node.is_null:
            at_value.refuse("a list of options is wanted", code="wrong_type", allowed="`['type:tcp']`")
            ports.append(None)
            continue
        ports.append(_listening(at_key, at_key.node.text, proto))
    return ports


def _read_ports(spot: Spot) -> tuple[Port, ...] | None:
    found: list[Port | None] = []
    if spot.node.shape is Shape.LIST:
        for item in spot.items():
            found += _read_listening(item)
    else:
        found = _read_listening(spot)
    ports = [port for port in found if port is not None]
    for index, port in enumerate(ports):
        if port in ports[:index]:
            spot.refuse(f"port {port.number}/{port.proto} is given twice", code="duplicate_key", fix="keep one")
    return tuple(ports) if None not in found else None


def _read_listening(spot: Spot) -> list[Port | None]:
    if spot.node.shape is Shape.MAP:
        return _listening_map(spot)
    written = raw_text(spot, allowed=_PORT_ALLOWED, numbers=True)
    return [None if written is None else _listening(spot, written)]


def _stream(spot: Spot, written: str, options: dict[str, str]) -> StreamPort | None:
    found = _STREAM.match(written)
    if not found:
        spot.refuse("this is no cluster port", allowed=_STREAM_ALLOWED)
        return None
    proto = (found["proto"] or "tcp").lower()
    if proto not in PROTOCOLS:
        spot.refuse("there is no such protocol", found=proto, allowed="tcp or udp")
        return None
    source = _number(spot, found["source"], STREAM_FIRST, STREAM_LAST)
    if source is None:
        return None
    target = source if found["target"] is None else _number(spot, found["target"], 1, 65535)
    return None if target is None else StreamPort(source, target, proto, MappingProxyType(options))


def _stream_options(spot: Spot) -> dict[str, str] | None:
    """The extra entries of one port, carried along as they are."""
    if spot.node.is_null:
        return {}
    if spot.node.shape is not Shape.MAP:
        spot.refuse("the options of a port are a map", code="wrong_type", allowed="null or a map of texts")
        return None
    options: dict[str, str] = {}
    for at_key, at_value in spot.entries():
        value = raw_text(at_value, allowed="a text, number or boolean", numbers=True, booleans=True)
        if value is not None:
            options[at_key.node.text] = value
    return options


def _read_streams(spot: Spot) -> tuple[StreamPort, ...] | None:
    found: list[tuple[Spot, StreamPort | None]] = []
    if spot.node.shape is Shape.MAP:
        for at_key, at_value in spot.entries():
            options = _stream_options(at_value)
            found.append((at_key, None if options is None else _stream(at_key, at_key.node.text, options)))
    else:
        for one in spot.items() if spot.node.shape is Shape.LIST else [spot]:
            if one.node.shape is Shape.MAP:
                found += [(one, port) for port in _read_streams(one) or ()]
                continue
            written = raw_text(one, allowed=_STREAM_ALLOWED, numbers=True)
            found.append((one, None if written is None else _stream(one, written, {})))
    ports: dict[tuple[int, str], StreamPort] = {}
    for at, port in found:
        if port is None:
            continue
        if (port.source, port.proto) in ports:
            at.refuse(f"cluster port {port.source}/{port.proto} is given twice", code="duplicate_key", fix="keep one")
        ports.setdefault((port.source, port.proto), port)
    return tuple(ports.values())


listening_ports: Kind[tuple[Port, ...]] = Kind(_PORT_ALLOWED, _read_ports)
stream_ports: Kind[tuple[StreamPort, ...]] = Kind(_STREAM_ALLOWED, _read_streams)
