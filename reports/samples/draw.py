"""A screenshot of a report's page with its first scan open. Usage: python -m reports.samples.draw REPORT.html TARGET.png."""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright


def main() -> None:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.goto(Path(sys.argv[1]).absolute().as_uri())
        page.keyboard.press("n")
        page.wait_for_timeout(300)
        page.screenshot(path=sys.argv[2], full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
