"""Chromium for the tests of pages."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def missing(what: str) -> NoReturn:
    """Fail where the browser was asked for, else skip."""
    if os.environ.get("BROWSER_TEST"):
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


def find_chromium() -> str | None:
    """Return the path of Chromium, None where there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None)


def flags() -> list[str]:
    """Return the flags to start Chromium with; it refuses to start as root in a sandbox."""
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    return ["--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", *root]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if importlib.util.find_spec("playwright") is None:
        missing("no Playwright: `make browser-test` installs it")
    found = find_chromium()
    if found is None:
        missing("no Chromium found: install the package chromium, or set CHROMIUM to the path of one")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=flags())
        yield chromium
        chromium.close()
