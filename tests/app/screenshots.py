"""Takes the pictures of docs/how-to/app.md: `python -m tests.app.screenshots CACHE FOLDER [OPTIONS OF THE APP]`.

CACHE is where the app's reward models are, or are to be trained.
"""

import sys
from pathlib import Path
from typing import Any

from .browser import browsing, chromium, serving

MINUTE = 60_000  # milliseconds
DESKTOP, PHONE = {"width": 1180, "height": 900}, {"width": 390, "height": 844}


def take(page: Any, folder: Path) -> None:
    """The page on a desk, with the numbers of a word, then the same page on a phone."""
    page.set_default_timeout(4 * MINUTE)
    page.locator("circle.now").wait_for()
    page.screenshot(path=folder / "app.png", animations="disabled", full_page=True)
    words = page.locator(".card.live .word")
    words.nth(words.count() // 2).hover()
    page.screenshot(path=folder / "app-word.png", animations="disabled")
    page.mouse.move(0, 0)
    page.set_viewport_size(PHONE)
    page.wait_for_timeout(500)
    page.screenshot(path=folder / "app-phone.png", animations="disabled", full_page=True)


def main(cache: str, folder: str, *options: str) -> None:
    with serving(Path(cache).resolve(), *options) as (address, log), browsing(chromium()) as browser:
        page = browser.new_page(viewport=DESKTOP)
        page.goto(address)
        take(page, Path(folder))
    print(log.read_text()[-2000:])


if __name__ == "__main__":
    main(*sys.argv[1:])
