"""Take the pictures of the README: the tops of the pages that the bundled example makes. `make pictures` calls this."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.conftest import find_chromium, flags

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE = Path("data", "example")
QUERY = '{"name": {"$regex": "^behavior_.*_processed_"}}'
WIDTH, HEIGHT = 1_100, 1_080


def make_pages(folder: Path) -> dict[str, Path]:
    """Dispatch the example and run its analysis; return the pages by the names of their pictures.

    The folder is that of the command, so that the pages have short paths.
    """
    shutil.copytree(ROOT / EXAMPLE, folder / EXAMPLE)
    command = Path(sys.executable).with_name("job-dispatch")
    for arguments in (
        [
            f"--input_directory={EXAMPLE}",
            f"--metadata_catalog={EXAMPLE / 'catalog.jsonl'}",
            f"--docdb_query={QUERY}",
            "--filter_latest=@created",
            "--filter_by=@subject,@session",
            "--file_extension=.nwb",
            "--report_directory=report",
        ],
        ["run", f"{ROOT / 'pipeline' / 'example' / 'reward_response.py'}", "results", "--output", "analysis"],
    ):
        subprocess.run([command, *arguments], cwd=folder, check=True)
    return {"report": folder / "report" / "report.html", "results": folder / "analysis" / "results.html"}


def main() -> None:
    """Write `docs/report.png` and `docs/results.png`."""
    chromium = find_chromium()
    if chromium is None:
        sys.exit("error: no Chromium found; install the package chromium, or set CHROMIUM to the path of one")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        pages = make_pages(Path(folder))
        browser = playwright.chromium.launch(executable_path=chromium, args=flags())
        tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        for name, page in pages.items():
            tab.goto(page.as_uri())
            picture = ROOT / "docs" / f"{name}.png"
            tab.screenshot(path=picture)
            print(f"wrote {os.path.relpath(picture)}")
        browser.close()


if __name__ == "__main__":
    main()
