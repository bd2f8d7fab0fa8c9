"""The viewer's server: on loopback only, with a token in every address; it serves only what was opened."""

import secrets
import socket
import webbrowser
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from voxmim.errors import VoxmimError
from voxmim.findings import Finding
from voxmim.images.grid import Volume
from voxmim.report.figures import label_colour
from voxmim.viewer.collection import Collection, Item, Layer
from voxmim.viewer.scans import as_nifti
from voxmim.viewer.slices import PLANES, draw_plane

_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self' data: blob:; worker-src 'self' blob:; font-src 'self' data:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
    "cache-control": "no-store", "cross-origin-resource-policy": "same-origin",
}  # fmt: skip
_CACHED = 12  # volumes in memory


def serve(collection: Collection, port: int = 0, open_browser: bool = True, say: Callable[[str], None] = print) -> None:
    """Serve a collection on a port of 127.0.0.1 (0: a free one) until interrupted; `say` is called with the address.

    Raises:
        VoxmimError: the port is in use.
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
        Route("/collection.json", views.collection),
        Route("/curves.png", views.curves),
        Route("/volumes/{item:int}/{panel:int}/{layer:int}.nii", views.volume),
        Route("/planes/{item:int}/{panel:int}/{plane}.png", views.plane),
        Route("/page/{file:path}", views.page),
        Mount("/", StaticFiles(packages=[("voxmim.viewer", "static")], html=True)),
    ]
    hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
    return Starlette(
        routes=[Mount(f"/{token}", routes=routes)],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=partial(_own_origin_only, hosts))],
        exception_handlers={VoxmimError: _failed},
    )


async def _own_origin_only(hosts: set[str], request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Refuse requests for other hosts or from other origins, and add security headers to responses."""
    origin = request.headers.get("origin", "").removeprefix("http://")
    if request.headers.get("host") not in hosts or (origin and origin not in hosts):
        return PlainTextResponse("refused: another host or origin", 403)
    response = await call_next(request)
    response.headers.update(_HEADERS)
    return response


class _Views:
    """The responses of the routes."""

    def __init__(self, collection: Collection) -> None:
        self._shown = collection
        self._read = lru_cache(_CACHED)(lambda layer: layer.read())

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
                "items": [_described(item, shown.findings) for item in shown.items],
            }
        )

    async def curves(self, request: Request) -> Response:
        drawn = await run_in_threadpool(self._shown.curves)
        if drawn is None:
            raise HTTPException(404, "there are no curves yet")
        return Response(drawn, media_type="image/png")

    async def volume(self, request: Request) -> Response:
        item, panel, layer = (request.path_params[key] for key in ("item", "panel", "layer"))
        volume = await run_in_threadpool(self._volume, self._layer(item, panel, layer))
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
        layers = [(layer, self._volume(layer)) for layer in (self._layer(item, panel, index) for index in chosen)]
        return Response(await run_in_threadpool(draw_plane, layers, plane, position), media_type="image/png")

    async def page(self, request: Request) -> Response:
        """The report and files beside it, but nothing outside its folder."""
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

    def _volume(self, layer: Layer) -> Volume:
        """The volume of a layer; cached unless a training is running, which changes predictions."""
        return layer.read() if self._shown.live() else self._read(layer)


def _described(item: Item, findings: Sequence[Finding]) -> dict[str, Any]:
    def describe(layer: Layer) -> dict[str, Any]:
        legend = [{"value": value, "name": name, "colour": label_colour(value)} for value, name in layer.legend.items()]
        return {"name": layer.name, "kind": layer.kind, "legend": legend, "shown": layer.shown}

    return {
        "name": item.name,
        "group": item.group,
        "findings": [
            {"kind": finding.kind, "reason": finding.reason, "action": finding.action}
            for finding in findings
            if finding.file in item.files
        ],
        "panels": [{"title": panel.title, "layers": list(map(describe, panel.layers))} for panel in item.panels],
    }


async def _failed(request: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), 500)
