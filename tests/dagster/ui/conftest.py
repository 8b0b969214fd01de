"""A browser, the web server and the daemon on a project of their own, and a page that is traced.

All but the page are shared by a module and not by the session: Playwright keeps an event loop running for as long as
its browser lives, in which no other test could start one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from playwright.sync_api import Browser

from tests.chromium_helpers import running_browser
from tests.dagster.project_helpers import Project
from tests.dagster.server_helpers import dagster_dev
from tests.dagster.ui.browser_helpers import SHOWN_SECONDS, Ui

HAS_FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser(SHOWN_SECONDS) as running:
        yield running


@pytest.fixture(scope="module")
def served(
    browser: Browser, built: tuple[Project, dg.ExecuteInProcessResult], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Project, str]]:
    """A project in which everything has been materialized, and where its UI is; the browser first, which may skip."""
    project = built[0].copy_to(tmp_path_factory.mktemp("ui") / "project")
    with dagster_dev(project) as server:
        yield project, server.url


@pytest.fixture
def ui(browser: Browser, served: tuple[Project, str], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Ui]:
    """A page of the UI; a test that fails leaves its trace and its last picture in its temporary folder."""
    project, url = served
    with browser.new_context(base_url=url, viewport={"width": 1400, "height": 1000}) as context:
        context.set_default_timeout(SHOWN_SECONDS * 1000)
        context.tracing.start(snapshots=True)  # taking pictures all the while takes as long as the browser itself
        page = context.new_page()
        yield Ui(page, project)
        has_failed = request.node.stash.get(HAS_FAILED, False)
        if has_failed:
            page.screenshot(path=tmp_path / "failed.png")
        context.tracing.stop(path=tmp_path / "trace.zip" if has_failed else None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[assignment]
    item.stash[HAS_FAILED] = item.stash.get(HAS_FAILED, False) or report.failed
    return report  # type: ignore[return-value]
