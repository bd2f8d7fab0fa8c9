"""The server of the viewer: responses and refused requests."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from starlette.testclient import TestClient

from voxmim.images.grid import Volume
from voxmim.viewer.collection import Collection, Item, Layer, Panel
from voxmim.viewer.server import make_app

OBLIQUE = np.array([[0.9, -0.3, 0, 12], [0.3, 0.9, 0.1, -7], [0, -0.1, 2, 30], [0, 0, 0, 1]])


def client_of(collection: Collection, host: str = "127.0.0.1:8000") -> TestClient:
    return TestClient(make_app(collection, "secret", 8000), base_url=f"http://{host}")


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    voxels = np.random.default_rng(0).normal(size=(1, 6, 7, 8)).astype(np.float32)
    labels = np.zeros((1, 6, 7, 8), np.uint8)
    labels[0, 2:4, 2:4, 2:4] = 5
    layers = (
        Layer("scan", "image", lambda: Volume(voxels, OBLIQUE), shown=True),
        Layer("reference", "labels", lambda: Volume(labels, OBLIQUE), {5: "liver"}, shown=True),
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.html").write_text("<p>the report</p>")
    (tmp_path / "secret.html").write_text("not yours")
    return Collection("scan", "a scan", [Item("a", (Panel("", layers),))], page=tmp_path / "run" / "report.html")


def test_the_page_and_its_parts_are_served_from_the_package(collection: Collection) -> None:
    client = client_of(collection)
    for name in ("", "app.js", "style.css", "niivue.js", "NIIVUE-LICENSE.txt"):
        assert client.get(f"/secret/{name}").status_code == 200


def test_a_volume_keeps_its_voxels_and_its_affine(collection: Collection) -> None:
    answer = client_of(collection).get("/secret/volumes/0/0/0.nii")
    image = nibabel.Nifti1Image.from_bytes(answer.content)
    volume = collection.items[0].panels[0].layers[0].read()
    np.testing.assert_array_equal(np.asarray(image.dataobj), volume.array[0])
    np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-5)


def test_the_list_names_layers_labels_and_colours(collection: Collection) -> None:
    layers = client_of(collection).get("/secret/collection.json").json()["items"][0]["panels"][0]["layers"]
    assert [layer["name"] for layer in layers] == ["scan", "reference"]
    assert layers[1]["legend"] == [{"value": 5, "name": "liver", "colour": "#cc79a7"}]


def test_the_report_is_served_with_its_files(collection: Collection) -> None:
    assert "the report" in client_of(collection).get("/secret/page/report.html").text


@pytest.mark.parametrize(
    "path", ["../secret.html", "..%2Fsecret.html", "%2e%2e/secret.html", "/etc/passwd", "run.json"]
)
def test_no_file_outside_the_page_is_served(collection: Collection, path: str) -> None:
    assert client_of(collection).get(f"/secret/page/{path}").status_code == 404


@pytest.mark.parametrize("path", ["/", "/wrong/", "/secre/collection.json", "/collection.json"])
def test_a_wrong_token_is_refused(collection: Collection, path: str) -> None:
    assert client_of(collection).get(path).status_code == 404


def test_another_host_name_is_refused(collection: Collection) -> None:
    assert client_of(collection, "evil.example:8000").get("/secret/").status_code == 403


def test_a_request_from_another_site_is_refused(collection: Collection) -> None:
    headers = {"origin": "http://evil.example"}
    assert client_of(collection).get("/secret/collection.json", headers=headers).status_code == 403


def test_the_page_may_not_load_from_other_hosts(collection: Collection) -> None:
    policy = client_of(collection).get("/secret/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http:" not in policy
    assert "*" not in policy


@pytest.mark.parametrize(
    "path", ["volumes/1/0/0.nii", "volumes/0/1/0.nii", "volumes/0/0/2.nii", "planes/0/0/oblique.png"]
)
def test_unknown_paths_are_not_found(collection: Collection, path: str) -> None:
    assert client_of(collection).get(f"/secret/{path}").status_code == 404


def test_a_plane_is_drawn_by_the_server(collection: Collection) -> None:
    answer = client_of(collection).get("/secret/planes/0/0/axial.png?at=0.4&layers=0,1")
    assert answer.content.startswith(b"\x89PNG")
