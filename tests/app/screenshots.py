"""Takes the pictures of docs/how-to/app.md: `python -m tests.app.screenshots CACHE FOLDER`.

CACHE is where the app's reward models are, or are to be trained.
"""

import sys
from pathlib import Path
from typing import Any

from .browser import browsing, chromium, serving

MINUTE = 60_000  # milliseconds
SIZES = {"app": {"width": 1180, "height": 930}, "app-phone": {"width": 390, "height": 844}}


def take(page: Any, folder: Path, name: str) -> None:
    page.set_default_timeout(3 * MINUTE)
    page.locator("circle.now").wait_for()
    if name == "app":
        words = page.locator(".card.live .word")
        words.nth(words.count() // 2).focus()
    page.wait_for_timeout(400)
    page.screenshot(path=folder / f"{name}.png", full_page=name != "app", animations="disabled")


def main(cache: str, folder: str) -> None:
    with serving(Path(cache).resolve()) as (address, log), browsing(chromium()) as browser:
        for name, size in SIZES.items():
            page = browser.new_page(viewport=size)
            page.on("console", lambda message: print(message.type, message.text[:300]))
            page.on("request", lambda request: request.url.startswith(address) or print(request.url[:200]))
            page.goto(address)
            take(page, Path(folder), name)
            page.close()
    print(log.read_text()[-2000:])


if __name__ == "__main__":
    main(*sys.argv[1:])
