"""A headless Chromium for tests, if there is one."""

import json
import shutil
from contextlib import contextmanager

import pytest

try:
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select, WebDriverWait
except ImportError:
    # The tests that need no browser do without.
    webdriver = By = Keys = Select = WebDriverWait = None

__all__ = ["By", "Keys", "Select", "WebDriverWait", "headless_chromium", "needs_browser", "requests"]

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-prefers-reduced-motion",
    "--window-size=1200,900",
)

needs_browser = pytest.mark.skipif(
    webdriver is None or BROWSER is None or DRIVER is None,
    reason="no selenium, or no Chromium with chromedriver here (Debian: apt-get install chromium chromium-driver)",
)


@contextmanager
def headless_chromium(user_data):
    """A browser with a profile of its own in the directory ``user_data``."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={user_data}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield browser
    finally:
        browser.quit()


def requests(browser):
    """The addresses of all requests since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [it["params"] for it in messages if it["method"] == "Network.requestWillBeSent"]
    return [it["request"]["url"] for it in sent]
