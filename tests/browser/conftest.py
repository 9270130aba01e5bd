"""A real Chromium without a window, and pages opened in it from disk."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1200, "height": 900}


def find_chromium(driver: Any) -> str | None:
    """A Chromium on the path, or the one that `playwright install chromium` has put in place."""
    for name in PROGRAMS:
        path = shutil.which(name)
        if path:
            return path
    own = driver.chromium.executable_path
    return own if os.path.exists(own) else None


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright: it drives the browser")
    with playwright.sync_playwright() as driver:
        program = find_chromium(driver)
        if program is None:
            pytest.skip(
                "no Chromium found: install the system's package (apt install chromium) or say "
                "python -m playwright install chromium"
            )
        launched = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield launched
        launched.close()


class Tab:
    """A page in the browser; whatever it asks for or complains about is kept."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page, self.address = page, path.as_uri()
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(self.address)
        page.wait_for_selector("html[data-shown]")

    def pixels(self, selector: str = "#sheet") -> np.ndarray:
        """What is drawn there, [H, W, 3]."""
        return pixels(self.page.locator(selector).first.screenshot())

    def text(self, selector: str) -> str:
        return self.page.locator(selector).first.inner_text()

    def slide(self, selector: str, value: float) -> None:
        """Move a slider to a value, as its thumb would."""
        self.page.locator(selector).fill(str(value))

    def ask(self, script: str, *given: Any) -> Any:
        return self.page.evaluate(script, *given)

    def settled(self) -> None:
        """Wait until what was asked for is on the screen: two frames, the first of which tells of changed media."""
        self.ask("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def shows(self, view: int) -> None:
        """Wait until a view is drawn."""
        self.page.wait_for_selector(f'html[data-shown="{view}"]')

    def focused(self) -> str:
        """What has the focus: its id or name, or else its element and class."""
        return self.ask("(e => e.id || e.name || `${e.tagName} ${e.className}`.trim())(document.activeElement)")


def pixels(png: bytes) -> np.ndarray:
    image = pytest.importorskip("PIL.Image", reason="screenshots are read with pillow")
    return np.asarray(image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def changed(one: np.ndarray, other: np.ndarray) -> float:
    """The share of pixels that differ by more than rounding in any colour."""
    assert one.shape == other.shape
    return float((np.abs(one - other).max(-1) > 3).mean())


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Tab]]:
    """Open a file; after the test nothing may have been asked of a network, and nothing complained."""
    tabs: list[Tab] = []

    def open_(path: Path, **settings: Any) -> Tab:
        context = browser.new_context(**{"viewport": DESK, "offline": True, **settings})
        tabs.append(Tab(context.new_page(), path))
        return tabs[-1]

    yield open_
    for tab in tabs:
        tab.page.context.close()
    for tab in tabs:
        assert not tab.complaints
        assert [url for url in tab.asked if not url.startswith(("data:", "blob:"))] == [tab.address]
