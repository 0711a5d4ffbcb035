"""The running operation: look, follow, cancel; and what is past: releases and history."""

from __future__ import annotations

from aiohttp import web

from lain_console.api.context import Context, context
from lain_console.api.schemas import PARAMETERS, EventsSchema
from lain_console.reading import no_operation
from lain_sdk.api_types import OperationView, ReleaseView
from lain_shared.errors import Invalid, Unavailable
from lain_shared.http_server import Api, EventStream, principal, query, reply, sse
from lain_shared.model.app import HistoryRecord, Operation
from lain_shared.tokens import Access

routes = Api("console", "", parameters=PARAMETERS)
APP = "/api/v1/apps/{app}/"
LOOK_AGAIN_SECONDS = 2.0


@routes.get(APP + "operation/", access=Access.READ, summary="The running operation", response=OperationView)
async def get_operation(request: web.Request) -> web.Response:
    return reply(await context(request).reading.operation(request.match_info["app"]))


@routes.delete(
    APP + "operation/", access=Access.DEPLOY, summary="Cancel it: go back", response=OperationView, status=202
)
async def cancel(request: web.Request) -> web.Response:
    stored = await context(request).starter.cancel(request.match_info["app"], principal(request).name)
    return reply(await context(request).reading.operation_of(stored.value), status=202)


@routes.get(
    APP + "operation/events/",
    access=Access.READ,
    summary="Its progress, as server-sent events: step, status, end",
    query=EventsSchema,
    media=("text/event-stream",),
)
async def events(request: web.Request) -> web.StreamResponse:
    """``operation``: its id (default: the running one). Steps from the first on, then what changes; ``end`` is the last."""
    here, app = context(request), request.match_info["app"]
    await here.state.app(app)
    wanted: str | None = query(request, EventsSchema)["operation"]
    running = await here.state.operations.get(app)
    if wanted is None:
        if running is None:
            raise no_operation(app)
        wanted = running.value.id
    if running is None or running.value.id != wanted:
        await here.reading.history_record(app, wanted)
    async with sse(request) as stream:
        await Follower(here, app, wanted, stream).run()
    return stream.response


class Follower:
    """Tells one client what happens to one operation."""

    def __init__(self, here: Context, app: str, operation: str, stream: EventStream) -> None:
        self._here, self._app, self._operation, self._stream = here, app, operation, stream
        self._steps = 0
        self._statuses: dict[str, object] = {}

    async def run(self) -> None:
        while not self._here.stopping():
            try:
                running = await self._here.state.operations.get(self._app)
                if running is not None and running.value.id == self._operation:
                    await self._tell(running.value)
                    await self._tell_statuses()
                else:
                    ended = await self._here.state.history.get(self._app, self._operation)
                    if ended is not None:
                        await self._tell(ended.value)
                        await self._stream.send("end", self._here.reading.losses.with_loss(ended.value))
                    return
            except Unavailable:
                pass  # etcd is away: the heartbeat goes on, and so do we when it is back
            await self._here.mirrors.bell.wait(LOOK_AGAIN_SECONDS)

    async def _tell(self, operation: Operation | HistoryRecord) -> None:
        for step in operation.steps[self._steps :]:
            await self._stream.send("step", step)
        self._steps = max(self._steps, len(operation.steps))

    async def _tell_statuses(self) -> None:
        for proc, status in sorted(self._here.mirrors.statuses(self._app).items()):
            if self._statuses.get(proc) != status:
                self._statuses[proc] = status
                await self._stream.send("status", status)


@routes.get(
    APP + "releases/",
    access=Access.READ,
    summary="Releases that are kept, newest first",
    response=tuple[ReleaseView, ...],
)
async def releases(request: web.Request) -> web.Response:
    return reply(await context(request).reading.releases(request.match_info["app"]))


@routes.get(APP + "releases/{release}/", access=Access.READ, summary="One release, whole", response=ReleaseView)
async def release(request: web.Request) -> web.Response:
    """The environment's values and the manifest are for those who may deploy."""
    text = request.match_info["release"]
    if not text.isdecimal() or len(text) > 9:
        raise Invalid(f"{text!r} is not a release number", code="invalid_request")
    return reply(await context(request).reading.release(request.match_info["app"], int(text), principal(request)))


@routes.get(
    APP + "history/", access=Access.READ, summary="Ended operations, newest first", response=tuple[HistoryRecord, ...]
)
async def history(request: web.Request) -> web.Response:
    return reply(await context(request).reading.history(request.match_info["app"]))


@routes.get(APP + "history/{operation}/", access=Access.READ, summary="One ended operation", response=HistoryRecord)
async def history_record(request: web.Request) -> web.Response:
    return reply(
        await context(request).reading.history_record(request.match_info["app"], request.match_info["operation"])
    )
