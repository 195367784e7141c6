"""What a person sees and does in the Prefect UI: a real Chromium, told in the words on the screen."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from estate import await_condition
from selenium.common.exceptions import ElementClickInterceptedException, StaleElementReferenceException
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

# A writer that waits for SQLite's lock may wait 60 s, and everybody else with it.
_SOON_SECONDS = 180
# Wide and high enough for a page to show its lists whole: the UI leaves out what lies below the edge.
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1400,1100",
)  # fmt: skip
# The graph is drawn on a canvas: only a picture of it tells what is there.
_COUNT_GREEN_PIXELS = """
const [picture, done] = arguments, image = new Image();
image.onload = () => {
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.width, image.height];
    const brush = canvas.getContext('2d');
    brush.drawImage(image, 0, 0);
    const bytes = brush.getImageData(0, 0, image.width, image.height).data;
    let green = 0;
    for (let at = 0; at < bytes.length; at += 4)
        green += bytes[at + 1] > 120 && bytes[at] < 80 && bytes[at + 2] < 110;
    done(green);
};
image.src = 'data:image/png;base64,' + picture;
"""


class Screen:
    """One browser window on one Prefect server."""

    def __init__(self, driver: Chrome, site: str) -> None:
        self._driver = driver
        self._site = site

    def open(self, path: str, **query: str) -> None:
        """Go to a page of the UI."""
        self._driver.get(f"{self._site}/{path}?{urllib.parse.urlencode(query, quote_via=urllib.parse.quote)}")

    def open_run(self, run: str) -> None:
        """Go to a flow run's page."""
        self.open(f"runs/flow-run/{run}")

    def leave(self) -> None:
        """Show nothing: a run's graph that is being drawn costs as much processor as the run."""
        self._driver.get("about:blank")

    def text(self) -> str:
        """Return all that can be read now."""
        return str(self._driver.find_element(By.TAG_NAME, "body").text)

    def await_texts(self, *expected: str, seconds: float = _SOON_SECONDS) -> str:
        """Return all that can be read once every one of these is; AssertionError with what was read instead."""

        def read() -> str:
            shown = self.text()
            return shown if all(words in shown for words in expected) else ""

        return str(self._awaited(read, lambda: f"expected {expected}, read:\n{self.text()}", seconds))

    def press(self, words: str) -> None:
        """Press the last visible button, tab or link that says exactly this, once it stands still."""
        spelled = f"normalize-space(.)='{words}'"
        path = f"//button[{spelled}] | //a[{spelled}] | //li[contains(@class, 'p-tab') and {spelled}]"
        at: dict[str, int] = {}

        def pressed() -> bool:
            nonlocal at
            shown = [element for element in self._driver.find_elements(By.XPATH, path) if element.is_displayed()]
            # A form that is still being laid out moves its button away from under the pointer.
            before, at = at, (shown[-1].rect if shown else {})
            if not shown or at != before or not shown[-1].is_enabled():
                return False
            shown[-1].click()
            return True

        self._awaited(pressed, lambda: f"nothing says {words!r} in:\n{self.text()}", _SOON_SECONDS)

    def follow(self, part: str) -> None:
        """Follow the first link whose address holds this."""
        links = self._awaited(
            lambda: self._driver.find_elements(By.CSS_SELECTOR, f"a[href*='{part}']"),
            lambda: f"no link to {part!r} in:\n{self.text()}", _SOON_SECONDS,
        )  # fmt: skip
        links[0].click()

    def fill(self, label: str, value: str) -> None:
        """Type into, or choose in, the form's field with this label."""
        at = f"//div[contains(@class, 'p-label') and .//span[starts-with(normalize-space(.), '{label}')]]"

        def found() -> WebElement | None:
            fields = self._driver.find_elements(By.XPATH, f"{at}//textarea | {at}//select[option]")
            return fields[-1] if fields else None

        field = self._awaited(found, lambda: f"no field {label!r} in:\n{self.text()}", _SOON_SECONDS)
        if field.tag_name == "select":
            Select(field).select_by_visible_text(value)
        else:
            field.clear()
            field.send_keys(value)

    def await_green_bars(self) -> None:
        """Return once the run's graph shows bars of completed tasks."""

        def green() -> int:
            picture = self._driver.find_element(By.CSS_SELECTOR, "canvas").screenshot_as_base64
            pixels: int = self._driver.execute_async_script(_COUNT_GREEN_PIXELS, picture)
            return pixels if pixels > 1000 else 0

        self._awaited(green, lambda: "the graph shows no completed task", _SOON_SECONDS)

    def picture(self, file: Path) -> None:
        """Keep what is shown as a PNG."""
        assert self._driver.save_screenshot(str(file))

    def _awaited(self, seen: Any, missed: Any, seconds: float) -> Any:
        ignored = (ElementClickInterceptedException, StaleElementReferenceException)
        waiting = WebDriverWait(self._driver, seconds, poll_frequency=0.2, ignored_exceptions=ignored)
        try:
            return waiting.until(lambda _: seen())
        except Exception as error:
            raise AssertionError(missed()) from error


@contextmanager
def opened(api_url: str, profile: Path) -> Iterator[Screen]:
    """Give a new, empty browser on the UI of the server with this API."""
    options = Options()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    driver = Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        yield Screen(driver, api_url.removesuffix("/api"))
    finally:
        driver.quit()


def ask(api_url: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """
    Ask the server's API: POST with a body, GET without one; as Prefect's own client, again while it is busy.

    A body that makes something has an `idempotency_key`: the server may have made it though no answer came.
    """
    request = urllib.request.Request(
        f"{api_url}{path}",
        None if body is None else json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    answers: list[bytes] = []

    def answered() -> bool:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                answers.append(answer.read())
        except TimeoutError:
            pass
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            error.close()
        return bool(answers)

    await_condition(f"an answer of {path}", answered, _SOON_SECONDS)
    return json.loads(answers[0] or b"null")
