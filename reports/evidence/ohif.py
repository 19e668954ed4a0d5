"""The objects of a run in a viewer: Orthanc on loopback, OHIF in headless Chromium, a screenshot of a flagged scan's study.

Usage: python -m reports.evidence.ohif OHIF_DIST WORK SCREENSHOT.jpg
OHIF_DIST is the folder `package/dist` of the npm package @ohif/app (`npm pack @ohif/app`, MIT). Needs Orthanc with its
DICOMweb plugin and Chromium. The scans are synthetic; the shipped detector flags them.
"""

from __future__ import annotations

import sys
import threading
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pydicom
from playwright.sync_api import sync_playwright

from medood.phantom.dicom import dicom_bytes
from medood.phantom.outliers import OUTLIERS
from medood.reporting.dicom_objects import write_dicom
from medood.scans.sources.dicomweb import store
from medood.screening.run import screen
from tests.screening.orthanc import started

ORTHANC, VIEWER = 18042, 18043
ADDRESS = f"dicomweb+http://127.0.0.1:{ORTHANC}/dicom-web"
CONFIG = """window.config = {
  routerBasename: '/', extensions: [], modes: [], showStudyList: true, defaultDataSourceName: 'dicomweb',
  dataSources: [{
    namespace: '@ohif/extension-default.dataSourcesModule.dicomweb', sourceName: 'dicomweb',
    configuration: {
      friendlyName: 'Orthanc', name: 'orthanc', qidoRoot: '/dicom-web', wadoRoot: '/dicom-web', wadoUriRoot: '/wado',
      qidoSupportsIncludeField: false, imageRendering: 'wadors', thumbnailRendering: 'wadors',
      enableStudyLazyLoad: true, supportsFuzzyMatching: false, supportsWildcard: true,
    },
  }],
};"""


class Handler(SimpleHTTPRequestHandler):
    """Serves the viewer, and passes DICOMweb on to Orthanc, so that both have one origin."""

    def do_GET(self) -> None:
        if self.path.startswith("/dicom-web"):
            request = urllib.request.Request(f"http://127.0.0.1:{ORTHANC}{self.path}")
            if accept := self.headers.get("Accept"):
                request.add_header("Accept", accept)
            with urllib.request.urlopen(request, timeout=60) as answer:
                content, kind = answer.read(), answer.headers.get("Content-Type", "")
        elif self.path == "/app-config.js":
            content, kind = CONFIG.encode(), "text/javascript"
        elif not Path(self.translate_path(self.path)).is_file():  # the viewer's own routes
            content, kind = (Path(str(self.directory)) / "index.html").read_bytes(), "text/html"
        else:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Keep quiet."""


def main() -> None:
    dist, work, target = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    (work / "scans").mkdir(parents=True)
    for kind in ("opacities", "upside_down"):
        (work / "scans" / f"{kind}.dcm").write_bytes(dicom_bytes(OUTLIERS[kind](0, 512), kind))
    screen([work / "scans"], "cxr-small", work / "run", fpr=0.05)
    write_dicom(work / "run", work / "run" / "dicom", None)
    server = started(work, ORTHANC)
    try:
        files = sorted([*(work / "scans").glob("*.dcm"), *(work / "run" / "dicom").rglob("*.dcm")])
        answers = list(store(ADDRESS, (pydicom.dcmread(path) for path in files)))
        print(f"{answers.count('')} of {len(files)} objects stored")
        study = pydicom.dcmread(work / "scans" / "upside_down.dcm").StudyInstanceUID
        handler = partial(Handler, directory=str(dist))
        viewer = ThreadingHTTPServer(("127.0.0.1", VIEWER), handler)
        threading.Thread(target=viewer.serve_forever, daemon=True).start()
        take(f"http://127.0.0.1:{VIEWER}/viewer?StudyInstanceUIDs={study}", target)
        viewer.shutdown()
    finally:
        server.terminate()
        server.wait(20)


def take(address: str, target: Path) -> None:
    """Open the viewer, wait until it has drawn, and keep what it shows."""
    with sync_playwright() as playwright:
        flags = [
            "--no-sandbox",
            "--disable-quic",
            "--disable-background-networking",
            "--use-gl=angle",
            "--use-angle=swiftshader",
        ]
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=[*flags, "--enable-unsafe-swiftshader"]
        )
        page = browser.new_page(viewport={"width": 1720, "height": 900})
        page.on("console", lambda message: print("viewer:", message.text[:200]) if message.type == "error" else None)
        page.goto(address)
        page.wait_for_selector("canvas", timeout=120_000)
        page.get_by_text("Skip all").click(timeout=60_000)
        page.get_by_text("Confirm and hide").click()
        page.get_by_text("medood: out-of-dis").first.dblclick()
        page.get_by_role("button", name="No", exact=True).click(timeout=60_000)
        page.wait_for_timeout(5_000)
        page.mouse.move(800, 500)  # the viewer draws measurements when the image is drawn anew, as by a change of window
        page.mouse.down()
        page.mouse.move(801, 501, steps=2)
        page.mouse.up()
        page.wait_for_timeout(5_000)
        page.screenshot(path=str(target), type="jpeg", quality=82)
        browser.close()


if __name__ == "__main__":
    main()
