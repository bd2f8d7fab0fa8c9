"""Downloads from a local server: complete, resumed, interrupted, damaged, refused."""

from __future__ import annotations

import hashlib
import io
import re
import resource
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

import voxmim
from voxmim import console
from voxmim.cli import main
from voxmim.datasets import catalogue
from voxmim.datasets.catalogue import ARCHIVES, Archive, archive_of
from voxmim.datasets.download import download, unpack
from voxmim.errors import DownloadError

FOLDER = "Task04_Hippocampus"
FILES = {
    f"{FOLDER}/dataset.json": b'{"name": "tiny"}',
    f"{FOLDER}/imagesTr/scan_1.nii.gz": np.random.default_rng(0).bytes(3 << 20),
    f"{FOLDER}/imagesTr/._scan_1.nii.gz": b"a Mac's",
    f"{FOLDER}/.DS_Store": b"a Mac's",
}


def tar_of(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


TAR = tar_of(FILES)


class Server(ThreadingHTTPServer):
    """Serves one archive.

    Attributes:
        content: of the archive.
        ranges: whether it knows Range.
        cut: bytes after which it breaks the connection, or None.
        requests: method and range of each request.
    """

    content, ranges, cut = TAR, True, None
    daemon_threads = True

    def __init__(self) -> None:
        self.requests: list[tuple[str, str | None]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.wfile.write(self.answer()[: self.server.cut])

    def answer(self) -> bytes:
        server, byte_range = self.server, self.headers["Range"]
        server.requests.append((self.command, byte_range))
        if not self.path.endswith(f"/{FOLDER}.tar"):
            self.send_error(404)
            return b""
        body = server.content
        if byte_range and server.ranges:
            first = int(re.fullmatch(r"bytes=(\d+)-", byte_range)[1])  # type: ignore[index]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
            body = body[first:]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return body

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server, with the checksum of its archive in the catalogue."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    md5 = hashlib.md5(TAR, usedforsecurity=False).hexdigest()
    monkeypatch.setitem(catalogue.ARCHIVES, "msd-hippocampus", Archive(FOLDER, md5, "a test"))
    with Server() as one:
        thread = Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield one
        one.shutdown()
        thread.join()


def get(server: Server, out: Path, **options: Any) -> Path:
    return download("msd-hippocampus", out, server.url, **options)


def part(out: Path) -> Path:
    return out / f".{FOLDER}.tar.part"


def is_complete(folder: Path) -> bool:
    """Whether the folder and its parent have exactly the files that were packed."""
    files = {
        str(file.relative_to(folder.parent)): file.read_bytes() for file in folder.parent.rglob("*") if file.is_file()
    }
    return files == {name: content for name, content in FILES.items() if not Path(name).name.startswith(".")}


def test_a_data_set_is_complete_and_without_hidden_macos_files(server: Server, tmp_path: Path) -> None:
    stages: dict[str, list[tuple[int, int | None]]] = {}

    @contextmanager
    def watch(stage: str) -> Iterator[Callable[[int, int | None], None]]:
        stages[stage] = []
        yield lambda process, total: stages[stage].append((process, total))

    terms_seen: list[str] = []
    folder = get(server, tmp_path / "new", watch=watch, agree=lambda terms: bool(terms_seen.append(terms)) or True)
    assert folder == tmp_path / "new" / FOLDER
    assert is_complete(folder)
    assert list(stages) == ["downloading", "checking", "unpacking"]
    assert stages["downloading"][-1] == stages["checking"][-1] == (len(TAR), len(TAR))
    assert [process for process, _ in stages["downloading"]] == sorted(process for process, _ in stages["downloading"])
    for word in ("CC BY-SA 4.0", f"{len(TAR) / 1e6:.1f} MB", "Nature Communications", server.url):
        assert word in terms_seen[0]


def test_a_second_call_downloads_nothing(server: Server, tmp_path: Path) -> None:
    folder = get(server, tmp_path)
    before = len(server.requests)
    assert get(server, tmp_path, agree=lambda _: False) == folder
    assert len(server.requests) == before


def test_an_interrupted_download_is_resumed(server: Server, tmp_path: Path) -> None:
    server.cut = 1_000_000
    with pytest.raises(DownloadError, match=r"the connection broke .*; run again to continue where it stopped"):
        get(server, tmp_path)
    assert part(tmp_path).read_bytes() == TAR[:1_000_000]
    assert not (tmp_path / FOLDER).exists()
    with pytest.raises(DownloadError, match="the connection broke"):
        get(server, tmp_path)
    assert part(tmp_path).read_bytes() == TAR[:2_000_000]
    server.cut = None
    assert is_complete(get(server, tmp_path))
    gets = [byte_range for method, byte_range in server.requests if method == "GET"]
    assert gets == [None, "bytes=1000000-", "bytes=2000000-"]


def test_a_server_without_range_requests_starts_the_download_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    part(tmp_path).write_bytes(TAR[:5000])
    assert is_complete(get(server, tmp_path))
    assert ("GET", "bytes=5000-") in server.requests


def test_a_partial_file_that_is_too_long_is_not_resumed(server: Server, tmp_path: Path) -> None:
    part(tmp_path).write_bytes(TAR + b"more")
    assert is_complete(get(server, tmp_path))
    assert server.requests[-1] == ("GET", None)


def test_a_complete_archive_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    part(tmp_path).write_bytes(TAR)
    assert is_complete(get(server, tmp_path))
    assert [method for method, _ in server.requests] == ["HEAD"]


def test_a_download_with_a_wrong_checksum_is_removed(server: Server, tmp_path: Path) -> None:
    server.content = TAR[:-1] + b"x"
    with pytest.raises(
        DownloadError, match=r"the download differs from the published file \(MD5 .* it was removed; run again"
    ):
        get(server, tmp_path)
    assert list(tmp_path.iterdir()) == []
    server.content = TAR
    assert is_complete(get(server, tmp_path))


def test_an_unreachable_server_is_reported_in_one_sentence(server: Server, tmp_path: Path) -> None:
    with pytest.raises(
        DownloadError, match=r"the server answers 404 \(Not Found\); check the address, or name another"
    ):
        download("msd-heart", tmp_path, server.url)
    server.server_close()
    server.socket.close()
    with pytest.raises(DownloadError, match=r"the server cannot be reached .*; check the network and run again"):
        get(server, tmp_path)
    with pytest.raises(DownloadError, match=r"the address of a mirror must begin with https:// or http://"):
        download("msd-heart", tmp_path, "file:///etc")
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_reported_before_the_download(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 2 * len(TAR) - 1})
    monkeypatch.setattr("voxmim.datasets.download.shutil.disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match=r"GB are needed here, and .* GB are free; make room"):
        get(server, tmp_path)
    usage.free += 1
    assert is_complete(get(server, tmp_path))


def test_a_full_disk_keeps_the_partial_download(server: Server, tmp_path: Path) -> None:
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from voxmim.datasets.fetch import fetch\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))\n"
        f"fetch(sys.argv[1], Path(sys.argv[2]), {len(TAR)}, print)\n"
    )
    url = f"{server.url}/{FOLDER}.tar"
    process = subprocess.run(
        [sys.executable, "-c", script, url, part(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "DownloadError" in process.stderr
    assert "it cannot be written (File too large); make room and run again" in process.stderr
    assert part(tmp_path).stat().st_size == 1 << 20
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    assert is_complete(get(server, tmp_path))


# Archives


def unpacked(tmp_path: Path, archive: bytes) -> None:
    file = tmp_path / "in" / "archive.tar"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(archive)
    unpack(file, tmp_path / "out" / FOLDER)


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped_absolutely/../../../x", f"{FOLDER}/../../escaped"])
def test_no_file_is_unpacked_outside_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(DownloadError, match="the archive cannot be unpacked"):
        unpacked(tmp_path, tar_of({**FILES, name: b"bad"}))
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [tmp_path / "in" / "archive.tar"]
    assert not (tmp_path / "out" / FOLDER).exists()


def test_no_link_to_outside_is_unpacked(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        link = tarfile.TarInfo(f"{FOLDER}/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(link)
    with pytest.raises(DownloadError, match="the archive cannot be unpacked"):
        unpacked(tmp_path, packed.getvalue())
    assert not (tmp_path / "out" / FOLDER).exists()


def test_a_damaged_or_unknown_archive_leaves_no_files(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="the archive cannot be unpacked"):
        unpacked(tmp_path, TAR[:2_000_000])
    with pytest.raises(DownloadError, match=f"the archive does not hold a folder {FOLDER}"):
        unpacked(tmp_path, tar_of({"other/dataset.json": b""}))
    assert list((tmp_path / "out").glob("*")) == []


# The catalogue and the command


def test_the_catalogue_has_all_ten_tasks() -> None:
    assert [archive.folder[:6] for archive in ARCHIVES.values()] == [f"Task{n:02d}" for n in range(1, 11)]
    assert len({archive.md5 for archive in ARCHIVES.values()}) == 10
    assert all(re.fullmatch("[0-9a-f]{32}", archive.md5) for archive in ARCHIVES.values())
    with pytest.raises(DownloadError, match=r"msd-hipocampus: no data set .* known; did you mean 'msd-hippocampus'\?"):
        archive_of("msd-hipocampus")


def test_checksums_and_addresses_equal_those_of_monai() -> None:
    spec = find_spec("monai")
    assert spec is not None
    source = (Path(str(spec.origin)).parent / "apps" / "datasets.py").read_text()  # importing it is slow
    for archive in ARCHIVES.values():
        assert f'"{archive.folder}": "{archive.md5}"' in source
        assert f'"{archive.folder}": "{catalogue.MIRROR}/{archive.file}"' in source


def test_the_command_asks_for_consent_to_the_terms(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_download(*more: str) -> tuple[Any, str]:
        with pytest.raises(SystemExit) as exit_info:
            main(["download", "msd-hippocampus", "--out", str(tmp_path), "--mirror", server.url, *more])
        printed = capsys.readouterr()
        return exit_info.value.code, printed.out + printed.err

    refusal = "error: msd-hippocampus: not downloaded, because its terms were not accepted; answer y, or add --yes.\n"
    status, output = run_download()  # no terminal to ask
    assert status == 2
    assert output.endswith(refusal)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, agreed in (("n", False), ("", False), ("yes", True)):
        monkeypatch.setattr(console.CONSOLE, "input", lambda _, answer=answer: answer)
        status, output = run_download()
        assert "Licence: CC BY-SA 4.0" in output
        assert (status, output.endswith(refusal), (tmp_path / FOLDER).exists()) == (
            0 if agreed else 2,
            not agreed,
            agreed,
        )
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert run_download()[0] == 0  # already downloaded
    (tmp_path / FOLDER).rename(tmp_path / "moved")
    status, output = run_download("--yes")
    assert status == 0
    assert output.endswith(f"the data set, ready for 'voxmim prepare': {tmp_path / FOLDER}\n")


def test_without_a_name_all_data_sets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["download"])
    output = capsys.readouterr().out
    assert all(name in output for name in ARCHIVES)


def test_download_from_python(server: Server, tmp_path: Path) -> None:
    assert is_complete(voxmim.download("msd-hippocampus", str(tmp_path), server.url))
