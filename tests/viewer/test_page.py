"""The page of the viewer in headless Chromium, with WebGL2 in software and without."""

from __future__ import annotations

import io
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image

from voxmim.findings import Finding
from voxmim.images.grid import Volume
from voxmim.viewer.collection import Collection, Item, Layer, Panel
from voxmim.viewer.server import make_app

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")

SIZE = {"width": 800, "height": 500}
SOFTWARE = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
READY = "window.voxmim.panels.length && (document.getElementById('note').hidden || !window.voxmim.webgl)"

OBLIQUE = np.array([[1.8, -0.6, 0, 10], [0.6, 1.8, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1.0]])
FLIPPED = np.array([[-2.0, 0, 0, 40], [0, -2, 0, 15], [0, 0, 2, -5], [0, 0, 0, 1]])


def item(name: str, affine: np.ndarray, panels: int = 1) -> Item:
    """A grey ramp with one labelled cube at voxels 14 to 18 of 24."""
    ramp = np.broadcast_to(np.linspace(0, 1, 24, dtype=np.float32)[None, None, None], (1, 24, 24, 24)).copy()
    labels = np.zeros((1, 24, 24, 24), np.uint8)
    labels[0, 14:18, 14:18, 14:18] = 1
    layers = (
        Layer("scan", "image", lambda: Volume(ramp, affine), shown=True),
        Layer("reference", "labels", lambda: Volume(labels, affine), {1: "cube"}, shown=True),
    )
    return Item(name, tuple(Panel(f"arm {number}", layers) for number in range(panels)), files=(f"{name}.nii",))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    items = [item("oblique", OBLIQUE), item("flipped", FLIPPED), item("two arms", FLIPPED, panels=2)]
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    findings = [Finding("flipped.nii", "tiny", "it is small", "used")]
    app = make_app(Collection("study", "phantoms", items, findings=findings), "secret", port)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{port}/secret/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def open_page(address: str) -> Iterator[Callable[..., Any]]:
    """Open the page in a browser with or without WebGL2; ``page.requested`` has its requests."""
    with playwright.sync_playwright() as control:
        browsers = []

        def opened(*options: str) -> Any:
            browsers.append(control.chromium.launch(executable_path=CHROMIUM, args=[*SOFTWARE, *options]))
            page = browsers[-1].new_page(viewport=SIZE)
            page.set_default_timeout(120_000)  # WebGL in software is slow on a busy machine
            page.requested = []
            page.on("request", lambda request: page.requested.append(request.url))
            page.goto(address)
            page.wait_for_function(READY)
            return page

        yield opened
        for browser in browsers:
            browser.close()


@pytest.fixture(scope="module")
def shared_page(open_page: Callable[..., Any]) -> Any:
    return open_page()


@pytest.fixture
def page(shared_page: Any) -> Any:
    """The page with WebGL2, opened once, at the centre of its first case."""
    shared_page.set_viewport_size(SIZE)
    shared_page.emulate_media(color_scheme="light")
    shared_page.select_option("#finding", "")
    if shared_page.evaluate("voxmim.current") != 0:
        show(shared_page, "oblique")
    shared_page.evaluate("""() => {
        const view = voxmim.panels[0].niivue;
        view.scene.crosshairPos = [0.5, 0.5, 0.5];
        view.setCrosshairWidth(0.5);
    }""")
    return shared_page


def show(page: Any, name: str) -> None:
    """Select a case and wait until it is drawn."""
    page.get_by_role("option", name=name).click()
    page.wait_for_function(f"voxmim.collection.items[voxmim.current].name === '{name}' && {READY}")


def picture(page: Any, selector: str = "#panels") -> np.ndarray:
    """The pixels (height, width, 3) of a part of the page, after two frames."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    png = page.locator(selector).first.screenshot()
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def is_coloured(pixels: np.ndarray) -> np.ndarray:
    """Mask of the pixels in the colour of the cube's label: much more red than blue."""
    return pixels[..., 0] - pixels[..., 2] > 60


def test_nothing_is_fetched_from_another_host(page: Any, address: str) -> None:
    outside = [url for url in page.requested if not url.startswith((address, "data:", "blob:"))]
    assert outside == []


def test_moving_a_slice_changes_the_picture(page: Any) -> None:
    page.select_option("#view", "axial")
    before = picture(page)
    page.locator("canvas").press("PageUp")
    after = picture(page)
    assert np.abs(after - before).mean() > 1


def test_an_overlay_can_be_switched_off_and_on(page: Any) -> None:
    page.select_option("#view", "axial")
    page.evaluate("voxmim.panels[0].niivue.setCrosshairWidth(0)")
    page.evaluate("voxmim.panels[0].niivue.moveCrosshairInVox(4, 4, 4)")
    shown = is_coloured(picture(page)).sum()
    page.keyboard.press("2")
    hidden = is_coloured(picture(page)).sum()
    page.keyboard.press("2")
    assert shown > 50
    assert hidden == 0
    assert is_coloured(picture(page)).sum() == shown


@pytest.mark.parametrize(("name", "affine"), [("oblique", OBLIQUE), ("flipped", FLIPPED)])
def test_a_label_is_coloured_at_its_world_position(page: Any, name: str, affine: np.ndarray) -> None:
    show(page, name)
    page.select_option("#view", "axial")
    inside, outside = (affine @ [*voxel, 1] for voxel in ((15.5, 15.5, 15.5), (5, 5, 15.5)))
    script = """([x, y, z]) => {
        const view = voxmim.panels[0].niivue;
        const fraction = view.mm2frac([x, y, z], 0, true);
        view.scene.crosshairPos = fraction;
        view.setCrosshairWidth(0);
        view.drawScene();
        const [left, top] = view.frac2canvasPos(fraction);
        return [left / devicePixelRatio, top / devicePixelRatio];
    }"""
    colours = []
    for place in (inside, outside):
        left, top = page.evaluate(script, place[:3].tolist())
        colours.append(is_coloured(picture(page, "canvas")[round(top), round(left)]))
    assert colours == [True, False]


def test_panels_of_one_item_move_in_sync(page: Any) -> None:
    show(page, "two arms")
    assert page.evaluate("voxmim.panels.length") == 2
    page.locator("canvas").first.press("PageUp")
    places = page.evaluate("voxmim.panels.map(one => Array.from(one.niivue.scene.crosshairPos))")
    np.testing.assert_allclose(places[0], places[1])


def test_keys_select_the_next_and_previous_case(page: Any) -> None:
    page.keyboard.press("j")
    assert page.locator("[aria-selected=true]").inner_text().startswith("flipped")
    page.keyboard.press("k")
    assert page.locator("[aria-selected=true]").inner_text().startswith("oblique")


def test_the_list_can_be_filtered_by_finding(page: Any) -> None:
    page.select_option("#finding", "tiny")
    assert page.locator("#items li").all_inner_texts() == ["flipped 1 findings"]
    page.keyboard.press("j")
    page.get_by_role("option", name="flipped").click()
    assert page.locator("#findings li").all_inner_texts() == ["tiny: it is small (used)"]


def test_the_position_is_shown_in_mm_with_the_value_of_each_layer(page: Any) -> None:
    page.evaluate("voxmim.panels[0].niivue.moveCrosshairInVox(4, 4, 4)")
    text = page.locator("#location").inner_text()
    *place, value = map(float, re.findall(r"-?[\d.]+", text))
    np.testing.assert_allclose(place, (OBLIQUE @ [16, 16, 16, 1])[:3], atol=3)
    assert value == pytest.approx(16 / 23, abs=0.05)
    assert text.endswith(", reference cube")


def test_the_page_fits_on_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_page_follows_the_light_or_dark_theme_of_the_system(page: Any) -> None:
    assert picture(page, "header").mean() >= 100
    page.emulate_media(color_scheme="dark")
    assert picture(page, "header").mean() < 100


def test_all_controls_and_pictures_have_names_for_screen_readers(page: Any) -> None:
    script = """[...document.querySelectorAll('input, select, button, a[href], canvas, img, [role]')]
        .filter(one => one.checkVisibility() && !one.labels?.length && !one.getAttribute('aria-label')
            && !one.alt && !one.textContent.trim() && one.getAttribute('role') !== 'status')
        .map(one => one.outerHTML)"""
    assert page.evaluate(script) == []


def test_without_webgl2_the_server_draws_the_planes_and_the_page_says_so(open_page: Callable[..., Any]) -> None:
    page = open_page("--disable-3d-apis")
    assert "no WebGL2" in page.locator("#note").inner_text()
    page.wait_for_function("[...document.images].filter(one => one.closest('.planes')).every(one => one.naturalWidth)")
    before = picture(page)
    page.locator("#axial-0").fill("0.65")
    deadline = time.monotonic() + 10
    while np.abs(picture(page) - before).mean() < 0.5:
        assert time.monotonic() < deadline, "the plane did not move"
