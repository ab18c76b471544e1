"""What the page shows, as HTML: replies side by side, words coloured by what they earned, the picture of trade-offs.

Every text is escaped here. Colours are those of `page.css`: blue for raised and orange for lowered, which all kinds of
colour vision tell apart.
"""

from collections.abc import Sequence
from html import escape as _escape_html

from ..evaluation import Interval
from .credit import Credit
from .tradeoff import Point
from .writing import Reply

_FULL_COLOR = 2.5  # nats, from where on a word is as dark as it gets
_WIDTH, _HEIGHT = 400, 300  # of the picture, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 14, 40  # margins, likewise


def escape(text: str) -> str:
    """A text as HTML that gradio's own templates leave alone too."""
    return _escape_html(text).replace("{", "&#123;").replace("$", "&#36;")


def notice(text: str = "", kind: str = "error") -> str:
    """A sentence that is read out when it appears; nothing for an empty text."""
    return (
        f'<p class="notice {kind}" role="{"alert" if kind == "error" else "status"}">{escape(text)}</p>' if text else ""
    )


def legend() -> str:
    """What the colours of words mean."""
    return (
        '<span class="swatch" style="background:rgb(var(--raised) / 0.6)"></span>the reward model raises the word'
        '<span class="swatch" style="background:rgb(var(--lowered) / 0.6)"></span>lowers it '
        "(point at a word, or use the arrow keys, for numbers in nats)"
    )


def strength_title(strength: float) -> str:
    """What a reply is headed by.

    Example:
        >>> [strength_title(strength) for strength in (0, 1, 2, 0.5)]
        ['Base alone', 'Your sliders', 'Twice your sliders', '0.5 times your sliders']
    """
    names = {0: "Base alone", 1: "Your sliders", 2: "Twice your sliders"}
    return names.get(strength, f"{strength:g} times your sliders")  # type: ignore[call-overload]


def cards(
    replies: Sequence[Reply],
    objectives: Sequence[str],
    credits: Sequence[Sequence[Sequence[Credit]]] = (),
    shown: str = "",
    worth: Sequence[Sequence[float]] = (),
    unit: str = "",
) -> str:
    """Replies side by side.

    Args:
        replies: one a card.
        objectives: names of the reward models.
        credits: `[reply][objective][token]`; empty while the replies are being written.
        shown: the objective by which words are coloured; another name colours nothing.
        worth: `[reply][objective]`, in `unit`.
        unit: of `worth`.
    """
    drawn = []
    for place, reply in enumerate(replies):
        body = _tokens(reply, objectives, credits[place], shown) if credits else _growing(reply)
        foot = _worth(objectives, worth[place], unit) if worth else "&nbsp;"
        live = " live" if reply.strength == 1 else ""
        drawn.append(
            f'<article class="card{live}"><h3>{escape(strength_title(reply.strength))}</h3>'
            f'<p class="reply">{body}</p><p class="worth">{foot}</p></article>'
        )
    return f'<div class="cards" aria-busy="{"false" if credits else "true"}">{"".join(drawn)}</div>'


def _growing(reply: Reply) -> str:
    return escape(reply.text) + ("" if reply.ended else '<span class="cursor" aria-hidden="true"></span>')


def _worth(objectives: Sequence[str], values: Sequence[float], unit: str) -> str:
    said = " · ".join(f"{escape(name)} <b>{_signed(value)}</b>" for name, value in zip(objectives, values, strict=True))
    return f"{said} <small>{escape(unit)}</small>"


def _tokens(reply: Reply, objectives: Sequence[str], credits: Sequence[Sequence[Credit]], shown: str) -> str:
    column = list(objectives).index(shown) if shown in objectives else None
    spans = []
    for place, piece in enumerate(reply.pieces):
        here = [of_one[place] for of_one in credits]
        word = piece.lstrip() or ("end" if reply.ended and place == len(reply.pieces) - 1 else "")
        tip = escape(tooltip(word, objectives, here, reply.alphas[place])).replace("\n", "&#10;")
        color = "" if column is None else f' style="{_background(here[column].advantage)}"'
        kind = "word" if piece.strip() else "word mark"
        # the arrow keys move on from the first one, see page.js
        attributes = f'class="{kind}" tabindex="{-1 if place else 0}" role="note" aria-label="{tip}"{color}'
        spans.append(f"{piece[: len(piece) - len(piece.lstrip())]}<span {attributes}>{escape(word) or '&nbsp;'}</span>")
    return "".join(spans)


def tooltip(word: str, objectives: Sequence[str], credits: Sequence[Credit], alpha: Sequence[float]) -> str:
    """The numbers of one word, a line for each objective.

    Example:
        >>> print(tooltip("snake", ["harmless"], [Credit(-3.0, -1.0)], [0.5]))
        snake
        harmless -2.00 (reward -3.00, base -1.00), alpha 0.5
    """
    lines = [word or "(part of a character)"]
    for name, credit, strength in zip(objectives, credits, alpha, strict=True):
        numbers = f"reward {_signed(credit.reward)}, base {_signed(credit.habit)}"
        lines.append(f"{name} {_signed(credit.advantage)} ({numbers}), alpha {strength:g}")
    return "\n".join(lines)


def _background(advantage: float) -> str:
    name = "raised" if advantage >= 0 else "lowered"
    return f"background:rgb(var(--{name}) / {0.6 * min(abs(advantage) / _FULL_COLOR, 1):.2f})"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("+0.00", "0.00").replace("-0.00", "0.00")


# ---------------------------------------------------------------------- the picture


def picture(path: Sequence[Point], now: Point | None, objectives: Sequence[str], unit: str) -> str:
    """The trade-off: a point for each setting of `tradeoff.settings`, and where the sliders stand.

    Args:
        path: measured settings; empty: nothing is known yet.
        now: the sliders' own setting, None where it is not measured yet.
        objectives: names of the reward models; the first two are the axes, or alpha and the only one.
        unit: what worth is counted in.
    """
    if not path:
        return '<div class="picture waiting"><p>The picture follows when the replies are written.</p></div>'
    single = len(objectives) == 1
    names = (f"alpha of {objectives[0]}", objectives[0]) if single else (objectives[0], objectives[1])
    points = [*path, *([now] if now else [])]
    scale = _Scale([_place(point) for point in points], _place(now) if now else None)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (scale(_place(point)) for point in path[0 if single else 1 :]))
    marks = [_mark(point, scale, objectives, "base" if place == 0 else "setting") for place, point in enumerate(path)]
    marks += [_bars(now, scale), _mark(now, scale, objectives, "now")] if now else []
    said = f"Trade-off of {names[0]} and {names[1]} in {unit}. " + (_said(now, objectives) if now else "")
    return (
        f'<figure class="picture"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(said)}">'
        f'{scale.axes(names)}<polyline class="path" points="{line}"/>{"".join(marks)}</svg>'
        '<figcaption><span class="key base"></span>base alone <span class="key setting"></span>other settings '
        f'<span class="key now"></span>your sliders <small>({escape(unit)})</small></figcaption></figure>'
    )


def _place(point: Point) -> tuple[Interval, Interval]:
    if len(point.worth) == 1:
        alpha = point.alpha[0]
        return Interval(alpha, alpha, alpha, 1), point.worth[0]
    return point.worth[0], point.worth[1]


def _said(point: Point, objectives: Sequence[str]) -> str:
    alpha = ", ".join(f"{name} {value:g}" for name, value in zip(objectives, point.alpha, strict=True))
    worth = ", ".join(
        f"{name} {_signed(interval.mean)} ± {interval.half_width:.2f}"
        for name, interval in zip(objectives, point.worth, strict=True)
    )
    return f"alpha: {alpha}. Mean of {point.worth[0].count} replies: {worth}."


class _Scale:
    """From worth to the picture's own units."""

    def __init__(self, places: Sequence[tuple[Interval, Interval]], now: tuple[Interval, Interval] | None) -> None:
        x, y = ([place[axis].mean for place in places] for axis in (0, 1))
        self._x = _span([*x, now[0].low, now[0].high] if now else x)
        self._y = _span([*y, now[1].low, now[1].high] if now else y)

    def __call__(self, place: tuple[Interval, Interval]) -> tuple[float, float]:
        return self.at(place[0].mean, place[1].mean)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a pair of numbers lies."""
        across = (x - self._x[0]) / (self._x[1] - self._x[0])
        up = (y - self._y[0]) / (self._y[1] - self._y[0])
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    def axes(self, names: tuple[str, str]) -> str:
        """Both axes with their names and a few numbers."""
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        drawn = [f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>']
        for value in _ticks(*self._x):
            x, _ = self.at(value, self._y[0])
            drawn.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{_tick(value)}</text>')
        for value in _ticks(*self._y):
            _, y = self.at(self._x[0], value)
            drawn.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_tick(value)}</text>')
        across, middle = (_LEFT + right) / 2, (_TOP + bottom) / 2
        drawn.append(
            f'<text class="name" x="{across}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(names[0])} →</text>'
            f'<text class="name" transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">'
            f"{escape(names[1])} →</text>"
        )
        return "".join(drawn)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """A bit more than all values."""
    low, high = min(values), max(values)
    margin = 0.12 * (high - low) or 1.0
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers.

    Example:
        >>> _ticks(-1.2, 5.3)
        [0.0, 2.0, 4.0]
    """
    step = next(
        step * 10.0**power for power in range(-6, 9) for step in (1, 2, 5) if (high - low) / (step * 10.0**power) <= 6
    )
    first = -(-low // step)
    return [(first + place) * step for place in range(int((high - first * step) // step) + 1)]


def _tick(value: float) -> str:
    return f"{value:g}"


def _mark(point: Point, scale: _Scale, objectives: Sequence[str], kind: str) -> str:
    x, y = scale(_place(point))
    title = f"<title>{escape(_said(point, objectives))}</title>"
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{8 if kind == "now" else 5}">{title}</circle>'


def _bars(point: Point, scale: _Scale) -> str:
    """The 95 % intervals of a point."""
    across, up = _place(point)
    left, right = (scale.at(x, up.mean) for x in (across.low, across.high))
    bottom, top = (scale.at(across.mean, y) for y in (up.low, up.high))
    return (
        f'<path class="bar" d="M{left[0]:.1f} {left[1]:.1f}H{right[0]:.1f}M{top[0]:.1f} {top[1]:.1f}V{bottom[1]:.1f}"/>'
    )
