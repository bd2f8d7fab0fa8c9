"""The viewer's server: loopback only, a token in every address, and no file but what was opened."""

from __future__ import annotations

import secrets
import socket
import webbrowser
from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from voxmim.errors import VoxmimError
from voxmim.images.grid import Volume
from voxmim.report.figures import label_colour
from voxmim.viewer.collection import Collection, Item, Layer
from voxmim.viewer.scans import as_nifti
from voxmim.viewer.slices import PLANES, draw_plane

_STATIC = {
    "app.js": "text/javascript", "style.css": "text/css", "niivue.js": "text/javascript",
    "NIIVUE-LICENSE.txt": "text/plain",
}  # fmt: skip
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self' data: blob:; worker-src 'self' blob:; font-src 'self' data:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_CACHED = 12  # volumes kept in memory


def serve(collection: Collection, port: int = 0, open_browser: bool = True, say: Callable[[str], None] = print) -> None:
    """Serve a collection until interrupted.

    Args:
        collection: what is shown.
        port: on 127.0.0.1; 0 takes a free one.
        open_browser: open the page in the default browser.
        say: is given the page's address.

    Raises:
        VoxmimError: the port is taken.
    """
    listener = socket.socket()
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        raise VoxmimError(f"port {port}: it cannot be used ({error.strerror}); name another with --port.") from None
    port = listener.getsockname()[1]
    token = secrets.token_urlsafe(24)
    address = f"http://127.0.0.1:{port}/{token}/"
    say(address)
    if open_browser:
        webbrowser.open(address)
    config = uvicorn.Config(make_app(collection, token, port), log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


def make_app(collection: Collection, token: str, port: int) -> Starlette:
    """The application; every address begins with the token, and requests of other sites are refused."""
    views = _Views(collection)
    routes = [
        Route("/", views.index),
        Route("/collection.json", views.collection),
        Route("/curves.png", views.curves),
        Route("/volumes/{item:int}/{panel:int}/{layer:int}.nii", views.volume),
        Route("/planes/{item:int}/{panel:int}/{plane}.png", views.plane),
        Route("/page/{file:path}", views.page),
        Route("/{file}", views.static),
    ]
    return Starlette(
        routes=[Mount(f"/{token}", routes=routes)],
        middleware=[Middleware(_OwnOriginOnly, port=port)],
        exception_handlers={VoxmimError: _failed, HTTPException: _refused},
    )


class _OwnOriginOnly:
    """Refuses requests under another host's name or from another site's page, and forbids the page to load any."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get("origin", "").removeprefix("http://")
        if headers.get("host") not in self._hosts or (origin and origin not in self._hosts):
            return await PlainTextResponse("refused: another host or origin", 403)(scope, receive, send)

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = {
                    "content-security-policy": _POLICY, "x-content-type-options": "nosniff",
                    "referrer-policy": "no-referrer", "cache-control": "no-store",
                    "cross-origin-resource-policy": "same-origin",
                }  # fmt: skip
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in extra.items())]
            await send(message)

        await self._app(scope, receive, guarded)


class _Views:
    """What each address gives."""

    def __init__(self, collection: Collection) -> None:
        self._shown = collection
        self._read = lru_cache(_CACHED)(self._read_layer)

    async def index(self, request: Request) -> Response:
        return Response(_static("index.html"), media_type="text/html")

    async def static(self, request: Request) -> Response:
        file = request.path_params["file"]
        if file not in _STATIC:
            raise HTTPException(404, "there is no such file")
        return Response(_static(file), media_type=_STATIC[file])

    async def collection(self, request: Request) -> Response:
        shown = self._shown
        return JSONResponse(
            {
                "kind": shown.kind,
                "title": shown.title,
                "live": shown.live(),
                "checking": shown.checking,
                "page": None if shown.page is None else f"page/{shown.page.name}",
                "curves": shown.kind == "run",
                "items": [self._described(item) for item in shown.items],
            }
        )

    def _described(self, item: Item) -> dict[str, Any]:
        findings = self._shown.findings_of(item)
        return {
            "name": item.name,
            "group": item.group,
            "findings": [{"kind": one.kind, "reason": one.reason, "action": one.action} for one in findings],
            "panels": [
                {"title": panel.title, "layers": [_described_layer(layer) for layer in panel.layers]}
                for panel in item.panels
            ],
        }

    async def curves(self, request: Request) -> Response:
        drawn = await run_in_threadpool(self._shown.curves)
        if drawn is None:
            raise HTTPException(404, "there are no curves yet")
        return Response(drawn, media_type="image/png")

    async def volume(self, request: Request) -> Response:
        item, panel, layer = (request.path_params[key] for key in ("item", "panel", "layer"))
        volume = await run_in_threadpool(self._volume, item, panel, layer)
        return Response(await run_in_threadpool(as_nifti, volume), media_type="application/octet-stream")

    async def plane(self, request: Request) -> Response:
        item, panel, plane = (request.path_params[key] for key in ("item", "panel", "plane"))
        if plane not in PLANES:
            raise HTTPException(404, "there is no such plane")
        try:
            position = float(request.query_params.get("at", "0.5"))
            chosen = [int(index) for index in request.query_params.get("layers", "0").split(",")]
        except ValueError:
            raise HTTPException(400, "at is a number and layers a list of indices") from None
        layers = [(self._layer(item, panel, index), self._volume(item, panel, index)) for index in chosen]
        return Response(await run_in_threadpool(draw_plane, layers, plane, position), media_type="image/png")

    async def page(self, request: Request) -> Response:
        """The report, and files beside it; nothing outside its folder."""
        page = self._shown.page
        if page is None:
            raise HTTPException(404, "there is no page")
        root = page.parent.resolve()
        file = (root / request.path_params["file"]).resolve()
        if not file.is_relative_to(root) or not file.is_file() or file.suffix not in (".html", ".png", ".svg", ".csv"):
            raise HTTPException(404, "there is no such file")
        return FileResponse(file)

    def _layer(self, item: int, panel: int, layer: int) -> Layer:
        try:
            return self._shown.items[item].panels[panel].layers[layer]
        except IndexError:
            raise HTTPException(404, "there is no such layer") from None

    def _volume(self, item: int, panel: int, layer: int) -> Volume:
        self._layer(item, panel, layer)
        if self._shown.live():  # what a network makes of a case changes while it trains
            return self._layer(item, panel, layer).read()
        return self._read(item, panel, layer)

    def _read_layer(self, item: int, panel: int, layer: int) -> Volume:
        return self._layer(item, panel, layer).read()


def _described_layer(layer: Layer) -> dict[str, Any]:
    legend = [{"value": value, "name": name, "colour": label_colour(value)} for value, name in layer.legend.items()]
    return {"name": layer.name, "kind": layer.kind, "legend": legend, "shown": layer.shown}


def _static(name: str) -> bytes:
    return (resources.files("voxmim") / "viewer" / "static" / name).read_bytes()


async def _failed(request: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), 500)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(error.detail, error.status_code)
