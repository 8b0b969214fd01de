"""Dagster's UI in Debian's Chromium, by the words that a person reads there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from playwright.sync_api import Locator, Page

from tests.dagster.project_helpers import Project

SHOWN_SECONDS = 120
"""For what is on its way: the UI asks every few seconds, the sensors look every ten; more on a busy machine."""
RUN_SECONDS = 400
STALE = re.compile(r"^Unsynced")


@dataclass(frozen=True)
class Ui:
    """A page of the UI, and the project that it shows."""

    page: Page
    project: Project

    def open_asset(self, asset: str, tab: str = "Overview") -> None:
        self.page.goto(f"/assets/{asset}?view={tab.lower()}")

    def open_lineage(self, asset: str, direction: str) -> None:
        """What `asset` is made from ("Upstream"), or what is made from it ("Downstream"), all the way."""
        self.open_asset(asset, "Lineage")
        self.page.get_by_role("button", name=direction).click()
        everything = self.page.get_by_role("button", name="All", exact=True)
        if everything.is_enabled():  # else there is no more than the first level
            everything.click()

    def metadata(self, name: str) -> Locator:
        """The row of the metadata `name`, of the asset whose page is open."""
        return self.page.get_by_role("row").filter(has=self.page.get_by_role("cell", name=name, exact=True))

    def show(self, name: str) -> Locator:
        """The dialog with the Markdown of the metadata `name`, of the asset whose page is open."""
        self.metadata(name).get_by_text("Show Markdown").click()
        return self.page.get_by_role("dialog")

    @property
    def badge(self) -> Locator:
        """The badge of a stale asset, on its own page."""
        return self.page.get_by_text(STALE).first  # the lineage below may have it, too

    def launch(self, button: str) -> None:
        """Clicks `button`, and opens the run that it launches."""
        self.page.get_by_role("button", name=button).click()
        notifications = self.page.get_by_role("region", name="Notifications")
        notifications.get_by_role("link", name="View", exact=True).click()
        self.page.wait_for_url("**/runs/**")
