"""How long the report takes to open: `python benchmarks/report.py [REPORT] [RUNS]`.

Headless Chromium opens the file afresh, several times; printed are the seconds until the first paint and until all
figures and the table are drawn, as minimum, median and maximum.
"""

import shutil
import statistics
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PAINTED = "performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"
DRAWN = "performance.now() / 1000"


def main(report: str = "data/results/report.html", runs: str = "7") -> None:
    painted, drawn = [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for _ in range(int(runs)):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(Path(report).resolve().as_uri())
            page.wait_for_selector("html[data-drawn]")
            drawn.append(page.evaluate(DRAWN))
            painted.append(page.evaluate(PAINTED))
            page.close()
    for name, seconds in [("first paint", painted), ("all drawn", drawn)]:
        low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
        print(f"{name:12} {low:.2f} {middle:.2f} {high:.2f} s (minimum, median, maximum of {runs})")


if __name__ == "__main__":
    main(*sys.argv[1:])
