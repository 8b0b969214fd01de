"""The Chromium that is installed, for the tests of both packages' pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

REQUIRE_VARIABLE = "BOORU_EMBED_REQUIRE_CHROMIUM"
FLAGS = [
    "--no-sandbox",  # it refuses to start as root with one
    "--disable-gpu",
    # Nothing but the web server is asked.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
]


@contextmanager
def running_browser(shown_seconds: float) -> Iterator[Browser]:
    """The browser, whose expectations wait for `shown_seconds`; skips the test where there is none."""
    chromium = shutil.which("chromium")
    if chromium is None:
        missing = "no chromium on the PATH; install your distribution's (apt-get install chromium)"
        if os.environ.get(REQUIRE_VARIABLE):
            pytest.fail(f"{missing}: {REQUIRE_VARIABLE} is set")
        pytest.skip(missing)
    expect.set_options(timeout=shown_seconds * 1000)
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=chromium, args=FLAGS) as browser:
        yield browser
