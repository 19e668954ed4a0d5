"""A PACS as a source, played by a server on loopback that can fail in the ways that real ones do."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pydicom
import pytest

from medood.config.schema import ReadConfig
from medood.errors import MedoodError
from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.scans.reader import read_scans
from medood.scans.scan import Refusal, Scan, UnavailableError
from medood.scans.sources import dicomweb as pacs
from medood.screening.ledger.database import Ledger
from medood.screening.run import screen
from medood.screening.run_options import RunOptions


class Pacs:
    """A server with instances by number, and a fault for some of them."""

    def __init__(self, count: int) -> None:
        self.count, self.faults, self.asked = count, dict[int, str](), list[str]()
        self.stored = list[bytes]()
        self.token, self.page, self.knows_offset = "", 500, True
        played = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                played.answer(self)

            def do_POST(self) -> None:
                body = (
                    self.rfile.read(int(self.headers["Content-Length"] or 0))
                    if "Content-Length" in self.headers
                    else _chunked(self)
                )
                played.stored.append(body)
                ok = {"00081199": {"vr": "SQ", "Value": []}}
                _send(self, 200, "application/dicom+json", json.dumps(ok).encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"dicomweb+http://127.0.0.1:{self._server.server_port}/dicom-web"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        self.asked.append(request.path)
        if not parts.path.startswith("/dicom-web/"):
            _send(request, 404, "text/plain", b"")
        elif self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            _send(request, 401, "text/plain", b"")
        elif parts.path == "/dicom-web/instances":
            query = parse_qs(parts.query)
            first = int(query["offset"][0]) if self.knows_offset else 0
            page = range(first, min(self.count, first + min(self.page, int(query["limit"][0]))))
            found = [
                {tag: {"vr": "UI", "Value": [f"1.2.{i}"]} for tag in ("0020000D", "0020000E", "00080018")} for i in page
            ]
            _send(request, 200, "application/dicom+json", json.dumps(found).encode())
        else:
            number = int(parts.path.rpartition(".")[2])
            fault = self.faults.get(number, "")
            content = dicom_bytes(frontal_chest(number, 32).image, f"{number}")
            body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--b--\r\n"
            kind = 'multipart/related; type="application/dicom"; boundary=b'
            if fault == "503":
                _send(request, 503, "text/plain", b"")
            elif fault == "500":
                _send(request, 500, "text/plain", b"")
            elif fault == "404":
                _send(request, 404, "text/plain", b"")
            elif fault == "half":
                _send(request, 200, kind, body, cut=len(body) // 2)
            elif fault == "html":
                _send(request, 200, "text/html", b"<html>log in</html>")
            elif fault == "once" and sum(request.path == path for path in self.asked) == 1:
                _send(request, 503, "text/plain", b"")
            else:
                _send(request, 200, kind, body)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _chunked(request: BaseHTTPRequestHandler) -> bytes:
    body = b""
    while size := int(request.rfile.readline(), 16):
        body += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return body


def _send(request: BaseHTTPRequestHandler, code: int, kind: str, body: bytes, cut: int | None = None) -> None:
    request.send_response(code)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body[:cut])
    if cut is not None:
        request.close_connection = True


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pacs]:
    for name in (pacs.TOKEN, pacs.USER, pacs.PASSWORD, pacs.RATE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pacs, "_PAUSE_MILLISECONDS", 20)
    pacs._client.cache_clear()
    server = Pacs(5)
    yield server
    server.close()
    pacs._client.cache_clear()


def test_instances_come_over_all_pages_whatever_their_size(played: Pacs) -> None:
    played.count, played.page = 10_000, 37
    found = list(pacs.find_instances(f"{played.address}?Modality=DX&StudyDate=20260101-"))
    assert len(set(found)) == 10_000
    assert found[7] == f"{played.address}/studies/1.2.7/series/1.2.7/instances/1.2.7"
    assert "Modality=DX" in played.asked[0]
    assert "StudyDate=20260101-" in played.asked[0]


def test_a_scan_of_a_pacs_is_the_scan_of_its_file(played: Pacs, tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(dicom_bytes(frontal_chest(3, 32).image, "3"))
    (expected,) = read_scans(tmp_path / "a.dcm")
    found = list(read_scans(played.address))
    assert len(found) == 5
    assert isinstance(found[3], Scan)
    assert isinstance(expected, Scan)
    np.testing.assert_array_equal(found[3].pixels, expected.pixels)
    assert found[3].identity.source.endswith("/instances/1.2.3")
    (again,) = read_scans(found[3].identity.source)
    assert again.identity == found[3].identity


def test_each_fault_of_a_pacs_is_told(played: Pacs) -> None:
    played.faults = {0: "500", 1: "half", 2: "html", 3: "once", 4: "404"}
    found = list(read_scans(played.address))
    reasons = [result.reason if isinstance(result, Refusal) else "" for result in found]
    assert reasons == [
        "the PACS answered 500 Internal Server Error",
        "the PACS's answer breaks off",
        "the PACS's answer is not a complete DICOM object",
        "",
        "the PACS answered 404",
    ]
    assert sum("instances/1.2.0" in path for path in played.asked) == 4, (
        "a server's own fault is tried again, four times in all"
    )


def test_a_token_that_expires_ends_the_run_and_it_goes_on(
    played: Pacs, tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played.count = 70
    whole = tmp_path / "whole"
    screen([played.address], tiny_detector, whole, fpr=0.1)
    real, run = pacs.fetch, tmp_path / "run"

    def expiring(address: str) -> bytes:
        if address.endswith(".50"):
            played.token = "new"
        return real(address)

    monkeypatch.setattr("medood.scans.sources.source.fetch", expiring)
    with pytest.raises(UnavailableError, match=r"refuses access \(401\).*MEDOOD_DICOMWEB_TOKEN.*--resume"):
        screen([played.address], tiny_detector, run, fpr=0.1)
    assert Ledger(run).count() == 32
    monkeypatch.setattr("medood.scans.sources.source.fetch", real)
    monkeypatch.setenv(pacs.TOKEN, "new")
    pacs._client.cache_clear()
    played.count = 80  # what has come since is not of this run
    screen([played.address], tiny_detector, run, fpr=0.1, options=RunOptions(resume=True))
    assert (run / "verdicts.csv").read_bytes() == (whole / "verdicts.csv").read_bytes()


def test_worker_processes_read_from_a_pacs_and_pass_its_refusal_on(
    played: Pacs, tiny_detector: Path, tmp_path: Path
) -> None:
    played.count = 40
    screen([played.address], tiny_detector, tmp_path / "one", fpr=0.1)
    screen([played.address], tiny_detector, tmp_path / "two", fpr=0.1, options=RunOptions(workers=2))
    assert (tmp_path / "one" / "verdicts.csv").read_bytes() == (tmp_path / "two" / "verdicts.csv").read_bytes()
    list(pacs.find_instances(played.address))
    listing = (tmp_path / "one" / "instances-0.txt").read_text()
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "instances-0.txt").write_text(listing)
    played.token = "new"
    with pytest.raises(UnavailableError, match="refuses access"):
        screen([played.address], tiny_detector, tmp_path / "three", fpr=0.1, options=RunOptions(workers=2))


def test_objects_are_stored(played: Pacs, tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(dicom_bytes(frontal_chest(3, 32).image, "3"))
    assert list(pacs.store(played.address, [pydicom.dcmread(tmp_path / "a.dcm")] * 2)) == ["", ""]
    assert len(played.stored) == 2
    assert all(b"DICM" in body for body in played.stored)


def test_a_pacs_that_is_down_for_all_ends_the_run(played: Pacs, tiny_detector: Path, tmp_path: Path) -> None:
    played.faults = dict.fromkeys(range(5), "503")
    with pytest.raises(UnavailableError, match=r"answers 503.*--resume"):
        screen([played.address], tiny_detector, tmp_path / "run", fpr=0.1)
    assert Ledger(tmp_path / "run").count() == 0
    played.faults = {}
    assert screen([played.address], tiny_detector, tmp_path / "run", fpr=0.1, options=RunOptions(resume=True)).scanned == 5


def test_odd_servers_are_told_and_never_asked_for_ever(played: Pacs, tiny_detector: Path, tmp_path: Path) -> None:
    played.count, played.knows_offset = 600, False
    assert len(list(pacs.find_instances(played.address))) == 500
    with pytest.raises(MedoodError, match=r"search at .* failed"):
        list(pacs.find_instances(played.address.replace("/dicom-web", "/other")))
    small = ReadConfig(max_bytes=100)
    played.count, played.knows_offset = 2, True
    screen([played.address], tiny_detector, tmp_path / "run", fpr=0.1, read=small)
    assert {row.status for row in Ledger(tmp_path / "run").rows()} == {"too_large"}


def test_mistakes_in_an_address_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for address, words in {
        "dicomweb+ftp://host/dicom-web": "is not the address of a PACS",
        "dicomweb+https://me:secret@host/dicom-web": "holds a name or password",
        "dicomweb+https://host/dicom-web?Colour=red": "'Colour'.*is not a DICOM keyword",
        "dicomweb+https://host/dicom-web?PatientName=Doe": "PatientName would appear unhashed in the ledger",
        "dicomweb+https://host/dicom-web/studies/1.2": "neither a service's root nor one instance",
        "dicomweb+https://[host": "is not the address of a PACS",
    }.items():
        with pytest.raises(MedoodError, match=words) as told:
            list(pacs.find_instances(address))
        assert "secret" not in str(told.value)
    monkeypatch.setenv(pacs.RATE, "fast")
    with pytest.raises(MedoodError, match="MEDOOD_DICOMWEB_RATE is not a number"):
        list(pacs.find_instances("dicomweb+https://host/dicom-web"))
    monkeypatch.delenv(pacs.RATE)
    monkeypatch.setenv(pacs.TOKEN, "t")
    with pytest.raises(MedoodError, match="unencrypted"):
        list(pacs.find_instances("dicomweb+http://host/dicom-web"))
    monkeypatch.delenv(pacs.TOKEN)
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9 does not answer"):
        pacs.fetch("dicomweb+http://127.0.0.1:9/dicom-web/studies/1.2/series/1.2/instances/1.2")
