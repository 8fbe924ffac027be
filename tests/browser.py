"""A headless Chromium for tests of pages, and what it is asked."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--hide-scrollbars"),
)
_PATIENCE_S = 20.0


class Browser:
    """Opens pages from the disk."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Load a page and wait until its charts are drawn."""
        self.look(width, height, dark)
        self.driver.get(page.resolve().as_uri())
        self.until("return document.documentElement.dataset.ready === 'yes'")

    def look(self, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        self._chrome(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._chrome("Emulation.setEmulatedMedia", {"features": [scheme]})

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, script: str, *arguments: Any) -> None:
        """Wait until the script returns something true."""
        end = time.monotonic() + _PATIENCE_S
        while not self.run(script, *arguments):
            assert time.monotonic() < end, f"still not: {script}; {self.complaints()}"
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).innerText", selector))

    def count(self, selector: str) -> int:
        """How many elements there are that are shown."""
        return int(
            self.run(
                "return [...document.querySelectorAll(arguments[0])]"
                ".filter((e) => e.getClientRects().length).length",
                selector,
            )
        )

    def click(self, selector: str, number: int = 0) -> None:
        """A click of the mouse, which must hit the element itself."""
        from selenium.webdriver.common.by import By

        element = self.driver.find_elements(By.CSS_SELECTOR, selector)[number]
        self.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        element.click()

    def type(self, selector: str, text: str) -> None:
        from selenium.webdriver.common.by import By

        element = self.driver.find_element(By.CSS_SELECTOR, selector)
        self.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        element.send_keys(text)

    def complaints(self) -> list[str]:
        """What the console has said since the last call, other than warnings."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] not in ("WARNING", "INFO", "DEBUG")
        ]

    def _chrome(self, command: str, arguments: dict[str, Any]) -> None:
        self.driver.execute_cdp_cmd(command, arguments)


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile; the test is skipped where there is none, but not in CI."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    chromedriver = shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        why = "needs Debian's chromium and chromium-driver"
        if os.environ.get("CI") or os.environ.get("REQUIRE_BROWSER"):
            pytest.fail(f"{why}; expected .ci/run to install them")
        pytest.skip(why)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*_FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
