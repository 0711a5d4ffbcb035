"""The controller's admin API: nodes, pods, assignments, switches, routers; why a pod is where it is; how the platform is."""

from __future__ import annotations

from lain_deployd.api import nodes, platform, pods, routers, switches
from lain_shared.http_server import Api


def make_api(version: str) -> Api:
    api = Api("deployd", version, __doc__ or "")
    api.include(nodes.api, pods.api, switches.api, routers.api, platform.api)
    return api
