"""The Swagger page in a real browser: Execute works on every endpoint as it stands."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.integration.conftest import Server

DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    DRIVER is None and not os.environ.get("CI"),
    reason="needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    assert DRIVER is not None, "CI must install chromium and chromium-driver"
    options = webdriver.ChromeOptions()
    options.page_load_strategy = "none"  # the page names a third-party script, which need not be reachable
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,2000"):
        options.add_argument(argument)
    # Only this machine exists.
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def test_execute_answers_on_every_endpoint(server: Server, browser: WebDriver) -> None:
    browser.get(server.url)
    wait = WebDriverWait(browser, 60, poll_frequency=0.05)
    document = httpx.get(f"{server.url}/docs.json").json()
    expected = {(method, path) for path, item in document["paths"].items() for method in item}
    wait.until(lambda _: len(browser.find_elements(By.CSS_SELECTOR, ".opblock")) == len(expected))

    executed = {}
    for i in range(len(expected)):
        block = browser.find_elements(By.CSS_SELECTOR, ".opblock")[i]
        method = block.find_element(By.CSS_SELECTOR, ".opblock-summary-method").text.lower()
        path = block.find_element(By.CSS_SELECTOR, ".opblock-summary-path").get_attribute("data-path") or ""
        executed[method, path] = _execute(browser, wait, block)

    assert executed.keys() == expected
    assert {key: status for key, (status, _) in executed.items() if status != "200"} == {}
    assert "Paris" in executed["post", "/v1/chat/completions"][1]
    assert "Paris" in executed["post", "/v1/completions"][1]


def _execute(browser: WebDriver, wait: WebDriverWait[WebDriver], block: WebElement) -> tuple[str, str]:
    """Open an operation, press Try it out and Execute, and wait: (status, body)."""

    def press(selector: str) -> None:
        button = wait.until(lambda _: block.find_element(By.CSS_SELECTOR, selector))
        browser.execute_script("arguments[0].click()", button)  # whatever lies over it

    if not block.find_elements(By.CSS_SELECTOR, ".opblock-body"):
        press(".opblock-summary-control")
    press(".try-out__btn:not(.cancel)")
    press(".execute")
    status = wait.until(lambda _: _text_of(block, ".live-responses-table .response-col_status"))
    body = _text_of(block, ".live-responses-table .response-col_description")
    press(".opblock-summary-control")  # an open operation slows the page down for all that follow
    return status.split()[0], body


def _text_of(block: WebElement, selector: str) -> str:
    found = block.find_elements(By.CSS_SELECTOR, f"{selector}:not(.col_header)")
    return found[-1].text if found else ""
