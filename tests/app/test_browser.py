"""The page in a browser: it shows the point by itself, obeys sliders and keys, fits a phone, and says what is wrong."""

import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from ..cli.conftest import WORDS, build_tokenizer
from ..conftest import tiny
from .browser import browsing, chromium, serving

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SECONDS = 1000  # of a page's timeouts


@dataclass
class Visit:
    """A page, and what happened on it behind the visitor's back."""

    page: Any
    problems: list[str] = field(default_factory=list)

    def finished(self) -> None:
        """Wait until the replies are written and coloured, and the picture has the sliders' point."""
        self.page.locator('.cards[aria-busy="false"]').wait_for(timeout=60 * SECONDS)
        self.page.locator("circle.now").wait_for(timeout=60 * SECONDS)

    def alphas(self) -> list[list[float]]:
        """Alphas that each word of the live reply was chosen with."""
        words = self.page.locator(".card.live .word").all()
        return [[float(a) for a in re.findall(r"alpha (\S+)", word.get_attribute("aria-label"))] for word in words]

    def sticks_out(self) -> int:
        """Pixels by which the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    chromium()
    with serving(tmp_path_factory.mktemp("app"), "--pairs", "8", "--samples", "2") as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    with browsing(chromium()) as running:
        yield running


def visit(server, browser, viewport) -> Visit:
    address, _ = server
    seen = Visit(browser.new_page(viewport=viewport))
    seen.page.set_default_timeout(30 * SECONDS)
    seen.page.on("pageerror", lambda error: seen.problems.append(str(error)))
    seen.page.on(
        "request", lambda request: None if request.url.startswith((address, "data:", "blob:")) else
        seen.problems.append(request.url),
    )  # fmt: skip
    seen.page.goto(address)
    return seen


@pytest.fixture(scope="module")
def desktop(server, browser) -> Visit:
    return visit(server, browser, DESKTOP)


@pytest.fixture(scope="module")
def phone(server, browser) -> Visit:
    return visit(server, browser, PHONE)


def test_it_shows_the_point_by_itself(desktop):
    desktop.finished()
    page = desktop.page
    titles = page.locator(".card h3").all_inner_texts()
    assert titles == ["Base alone", "Your sliders", "Twice your sliders"]
    assert all(len(text) > 20 for text in page.locator(".card .reply").all_inner_texts())
    assert page.locator(".word[style]").count() > 20
    assert page.locator("circle").count() == 7
    assert "points" in page.locator(".card.live .worth").inner_text()
    assert {alpha for alphas in desktop.alphas() for alpha in alphas} == {0.2, 1.4}


def test_a_slider_moved_by_keys_acts_on_the_reply_that_is_being_written(desktop):
    page = desktop.page
    page.get_by_role("button", name="Write", exact=True).click()
    page.wait_for_function("document.querySelector('.cards[aria-busy=true] .card.live .reply')?.innerText.length > 12")
    page.locator("#alpha-1 input[type=range]").focus()
    page.keyboard.press("End")
    desktop.finished()
    alphas = [second for _, second in desktop.alphas()]
    assert alphas[0] == 1.4 and alphas[-1] == 2.0
    assert alphas == sorted(alphas)


def test_numbers_by_keys(desktop):
    page = desktop.page
    page.locator(".card.live .word").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement === document.querySelectorAll('.card.live .word')[1]")
    shown = page.evaluate("getComputedStyle(document.activeElement, '::after').content")
    assert "harmless" in shown and "alpha" in shown


def test_words_are_coloured_by_what_is_chosen(desktop):
    page = desktop.page
    before = page.locator(".card.live .word").first.get_attribute("style")
    page.get_by_role("radio", name="plain").check()
    page.wait_for_function("!document.querySelector('.word[style]')")
    page.get_by_role("radio", name="harmless").check()
    page.wait_for_function("document.querySelector('.word[style]')")
    assert page.locator(".card.live .word").first.get_attribute("style") == before


def test_an_empty_request_is_answered_by_a_sentence(desktop):
    page = desktop.page
    request = page.locator("#request textarea, #request input").first
    asked = request.input_value()
    request.fill(" ")
    request.press("Enter")
    page.get_by_role("alert").filter(has_text="The request is empty").wait_for()
    request.fill(asked)


@pytest.mark.parametrize("case", ["unknown base", "other vocabulary"])
def test_models_that_do_not_fit_are_refused_in_a_sentence(desktop, base_dir, case, tmp_path):
    page = desktop.page
    if case == "unknown base":
        names, said = ("/no/such/base", str(base_dir)), "there is no folder '/no/such/base'"
    else:
        tiny("gpt2", seed=3).save_pretrained(tmp_path)
        build_tokenizer([*WORDS[:3], *reversed(WORDS[3:])]).save_pretrained(tmp_path)
        names, said = (str(base_dir), str(tmp_path)), "has another vocabulary than"
    if not page.locator("#base").is_visible():
        page.get_by_role("button", name="Other models").click()
    page.locator("#base input, #base textarea").first.fill(names[0])
    page.locator("#arms textarea").fill(names[1])
    page.get_by_role("button", name="Load").click()
    alert = page.get_by_role("alert").filter(has_text=said)
    alert.wait_for()
    assert "Traceback" not in page.content() and len(alert.inner_text()) < 600


def test_models_of_ones_own(desktop, base_dir, arm_dir):
    page = desktop.page
    page.locator("#base input, #base textarea").first.fill(str(base_dir))
    page.locator("#arms textarea").fill(str(arm_dir))
    page.get_by_role("button", name="Load").click()
    page.get_by_role("status").filter(has_text="is guided by helpful").wait_for()
    assert page.locator("#alpha-0 input[type=range]").is_visible()
    assert not page.locator("#alpha-1").is_visible()
    request = page.locator("#request textarea, #request input").first
    request.fill("w5 w6")
    request.press("Enter")
    page.wait_for_function("document.querySelector('.cards[aria-busy=true] .card.live .reply')?.innerText.length > 8")
    page.get_by_role("button", name="Stop").click()
    page.locator('.cards[aria-busy="false"]').wait_for()
    page.get_by_role("button", name="Measure the picture").click()
    page.locator("circle.now").wait_for()
    assert {alpha for alphas in desktop.alphas() for alpha in alphas} == {0.25}


def test_a_phone_shows_all_of_it_without_scrolling_sideways(phone):
    phone.finished()
    page = phone.page
    assert phone.sticks_out() <= 0
    tops = [page.locator(part).bounding_box()["y"] for part in ("#alpha-1", ".card.live", ".card >> nth=0", "#picture")]
    assert tops == sorted(tops), "sliders, what they do, the rest, the picture"
    word = page.locator(".card.live .word").last
    word.tap() if page.evaluate("'ontouchstart' in window") else word.click()
    assert phone.sticks_out() <= 0
    small = page.evaluate(
        "[...document.querySelectorAll('.reply, .worth, h3, label span')]"
        ".filter(e => e.offsetParent && parseFloat(getComputedStyle(e).fontSize) < 12).length"
    )
    assert small == 0


def test_nobody_else_was_asked_for_anything(desktop, phone, server):
    _, log = server
    assert desktop.problems == phone.problems == []
    assert "CONNECTS TO" not in log.read_text()
    assert "Traceback" not in log.read_text()
