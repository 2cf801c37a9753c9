"""How long a report of a large study takes: 1,000 synthetic trials with 1,000 points per curve.

    python benchmarks/report.py [trials] [points]

Prints CPU seconds and sizes of every output, peak memory, and, where Chromium is installed, the time until the page
answers and until every figure is drawn. The numbers go to docs/statistics.md; nothing is asserted here.
"""

from __future__ import annotations

import itertools
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "reports"))

from chromium import Chromium, executable
from simulated_study import study

import ablate_reports as reports


def main(trials: int = 1000, points: int = 1000) -> None:
    """Simulate, render, print."""
    seeds = 4
    levels = [range(5), range(5), range(trials // seeds // 25)]
    cells = {"-".join(map(str, cell)): cell for cell in itertools.product(*levels)}
    members = [
        (name, "design", "grid", i, name, dict(zip(("schedule", "velocity", "weighting"), map(str, cell), strict=True)))
        for i, (name, cell) in enumerate(cells.items())
    ]
    arms = {name: -0.02 * sum(cell) for name, cell in cells.items()}
    frames = study(arms, seeds, points=points, steps=10_000, every=1000, members=members)
    print(
        f"{trials} trials, {len(arms)} arms, {len(frames.curves):,} curve points, {len(frames.measurements):,} "
        "measurements"
    )
    for render in (reports.render_html, reports.render_markdown, reports.render_csv, reports.render_json):
        start = time.process_time()
        text = render(frames)
        print(f"{render.__name__:16} {time.process_time() - start:6.2f} CPU-s  {len(text.encode()) / 1e6:6.2f} MB")
        if render is reports.render_html:
            page = text
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    if executable():
        browse(page)


def browse(page: str) -> None:
    """Time the page in Chromium."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        path.write_text(page, encoding="utf-8")
        with Chromium() as browser:
            start = time.perf_counter()
            browser.open(path)
            loaded = time.perf_counter() - start
            browser.run("window.ablateReport.ready")
            ready = time.perf_counter() - start
            browser.run("window.ablateReport.drawAll()")
            print(
                f"Chromium: loaded {loaded:.2f} s, Plotly ready {ready:.2f} s, all figures "
                f"{time.perf_counter() - start:.2f} s"
            )
            print("problems:", browser.problems or "none")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
