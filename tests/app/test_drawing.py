"""HTML by hand: texts are escaped, numbers are right, the picture puts more to the right and higher up."""

import re
from xml.etree import ElementTree

import pytest

from genarm_hf.app.credit import Credit
from genarm_hf.app.drawing import cards, legend, notice, picture
from genarm_hf.app.tradeoff import Point
from genarm_hf.app.writing import Reply
from genarm_hf.evaluation import Interval

NAMES = ("helpful", "harmless")
HOSTILE = "<b>${1}{{value}}&\"'</b>"


def reply(strength=1.0, pieces=(" A", " snake"), ended=True):
    return Reply(strength, list(range(len(pieces))), list(pieces), [(strength, 0.5)] * len(pieces), ended)


def credit(advantage):
    return Credit(advantage - 1.0, -1.0)


def parsed(html):
    return ElementTree.fromstring(f"<r>{html.replace('&nbsp;', ' ')}</r>")


def test_growing_replies_have_a_cursor_until_they_end():
    drawn = cards([reply(0.0), reply(1.0, ended=False)], NAMES)
    done, growing = parsed(drawn).iter("article")
    assert "cursor" not in ElementTree.tostring(done, "unicode")
    assert "cursor" in ElementTree.tostring(growing, "unicode")
    assert [title.text for title in parsed(drawn).iter("h3")] == ["Base alone", "Your sliders"]
    assert 'aria-busy="true"' in drawn


def test_words_are_coloured_by_one_objective_and_tell_of_all():
    credits = [[[credit(2.5), credit(-1.25)], [credit(0.0), credit(9.0)]]]
    drawn = cards([reply()], NAMES, credits, "helpful", [[1.5, -2.0]], "points")
    first, second = (span for span in parsed(drawn).iter("span") if "word" in span.get("class"))
    assert first.get("style") == "background:rgb(var(--raised) / 0.60)"
    assert second.get("style") == "background:rgb(var(--lowered) / 0.30)"
    assert second.get("aria-label").splitlines() == [
        "snake",
        "helpful -1.25 (reward -2.25, base -1.00), alpha 1",
        "harmless +9.00 (reward +8.00, base -1.00), alpha 0.5",
    ]
    assert [first.get("tabindex"), second.get("tabindex")] == ["0", "-1"]
    assert "helpful <b>+1.50</b> · harmless <b>-2.00</b> <small>points</small>" in drawn
    assert "style=" not in cards([reply()], NAMES, credits, "plain")


def test_no_text_is_taken_for_markup():
    credits = [[[credit(1.0)], [credit(1.0)]]]
    for drawn in (
        cards([reply(pieces=(HOSTILE,))], (HOSTILE, "b"), credits, HOSTILE, [[1.0, 2.0]], "points"),
        cards([reply(pieces=(HOSTILE,), ended=False)], NAMES),
        notice(HOSTILE),
        picture([point(0, 0), point(1, 1)], point(2, 2), (HOSTILE, "b"), "points"),
    ):
        assert "{" not in drawn and "$" not in drawn and HOSTILE not in drawn
        assert HOSTILE in "".join(parsed(drawn).itertext())


def test_tokens_without_text_say_what_they_are():
    credits = [[[credit(1.0)] * 3, [credit(1.0)] * 3]]
    drawn = cards([reply(pieces=("", "é", ""))], NAMES, credits)
    part, _, end = (span for span in parsed(drawn).iter("span"))
    assert part.get("aria-label").startswith("(part of a character)\n") and part.get("class") == "word mark"
    assert end.get("aria-label").startswith("end\n") and end.text == "end"


def test_notices():
    assert notice("") == ""
    assert 'role="alert"' in notice("No.") and 'role="status"' in notice("So.", "hint")
    parsed(legend())


def point(x, y, alpha=(1.0, 0.5)):
    return Point(alpha, (Interval(x, x - 1, x + 1, 16), Interval(y, y - 2, y + 2, 16)))


def circles(html):
    return {c.get("class"): (float(c.get("cx")), float(c.get("cy")), c[0].text) for c in parsed(html).iter("circle")}


def test_the_picture_puts_more_to_the_right_and_higher_up():
    found = circles(picture([point(-1, -1), point(3, 0)], point(1, 2), NAMES, "points"))
    assert found["base"][0] < found["now"][0] < found["setting"][0]
    assert found["now"][1] < found["setting"][1] < found["base"][1]
    assert found["now"][0] - found["base"][0] == pytest.approx(found["setting"][0] - found["now"][0], abs=0.2)
    assert found["now"][2] == (
        "alpha: helpful 1, harmless 0.5. Mean of 16 replies: helpful +1.00 ± 1.00, harmless +2.00 ± 2.00."
    )


def test_everything_lies_within_the_picture():
    drawn = picture([point(-100, 5), point(1e-3, -7e4)], point(40, 0), NAMES, "points")
    assert all(46 <= x <= 386 and 14 <= y <= 260 for x, y, _ in circles(drawn).values())
    assert len(re.findall('class="tick"', drawn)) >= 6


def test_a_single_reward_model_is_drawn_against_alpha():
    path = [Point((alpha,), (Interval(alpha * alpha, 0, 0, 16),)) for alpha in (0.0, 1.0, 2.0)]
    drawn = picture(path, None, ("brief",), "points")
    assert "alpha of brief →" in drawn and 'class="now"' not in drawn
    assert len(re.search('points="([^"]+)"', drawn)[1].split()) == 3


def test_all_settings_alike_are_no_division_by_zero():
    assert circles(picture([point(1, 1), point(1, 1)], point(1, 1), NAMES, "points"))


def test_before_anything_is_known():
    assert "picture follows" in picture([], None, NAMES, "")
