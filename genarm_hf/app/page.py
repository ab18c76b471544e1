"""The page itself, in gradio: what is where, and which event calls what. All that needs no gradio is elsewhere."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import drawing
from .ensemble import MOST_REWARD_MODELS, Ensemble
from .session import LARGEST_ALPHA, Session, View, sentence, told
from .tradeoff import REPLIES
from .writing import Manner

if TYPE_CHECKING:
    import gradio as gr

TITLE = "Steer a model while it writes"
LEAD = (
    "A frozen model writes. Small reward models pull at every word, as strongly as the sliders say. "
    "Move a slider *while* it writes: the next word obeys."
)
PLAIN = "plain"
_HERE = Path(__file__).parent
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")  # none is fetched from anywhere
_MONO = ("ui-monospace", "Menlo", "Consolas", "monospace")

Loader = Callable[[str, Sequence[str]], Ensemble]


@dataclass
class _Parts:
    """Components that events read or change."""

    session: Any
    request: Any
    others: Any
    sliders: list[Any]
    write: Any
    stop: Any
    picture: Any
    colors: Any
    cards: Any
    notice: Any
    manner: list[Any]
    explore: Any


def serve(ensemble: Ensemble, load: Loader | None = None, samples: int = REPLIES, **launch: Any) -> Any:
    """Open the page on a port of this machine.

    Args:
        ensemble: what the page starts with.
        load: opens the models that a visitor names; None: nobody may choose others, as befits a public page.
        samples: replies that each setting of the picture is measured on, 2 or more.
        **launch: arguments of gradio's `launch()`, such as `server_name`, `server_port`.

    Returns:
        what gradio's `launch()` does: the server, its address here and elsewhere.

    Raises:
        ImportError: gradio is not installed.
    """
    page = build(ensemble, load, samples)
    look = {
        "theme": _theme(),
        "css_paths": _HERE / "page.css",
        "head": f"<script>{(_HERE / 'page.js').read_text()}</script>",
    }
    return page.launch(footer_links=[], share=False, ssr_mode=False, **look, **launch)


def build(ensemble: Ensemble, load: Loader | None = None, samples: int = REPLIES) -> "gr.Blocks":
    """The page, not yet served; arguments as those of [`serve`]."""
    gr = gradio()
    with gr.Blocks(title=f"GenARM: {TITLE.lower()}", analytics_enabled=False) as page:
        gr.Markdown(f"# {TITLE}\n{LEAD}", elem_id="lead")
        session = gr.State(Session(ensemble, samples=samples))
        with gr.Row(elem_id="stage"):
            parts = _stage(session, ensemble)
        _connect(page, parts)
        if load is not None:
            _add_models(parts, load)
    return page


def gradio() -> Any:
    """The package.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise ImportError("The app needs gradio: pip install 'genarm-hf[app]'.") from error
    return gradio


def _theme() -> Any:
    gr = gradio()
    return gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=_FONTS, font_mono=_MONO)


# ---------------------------------------------------------------------- what is where


def _stage(session: Any, ensemble: Ensemble) -> _Parts:
    gr = gradio()
    with gr.Column(elem_id="controls", min_width=280):
        known = list(ensemble.requests.values())
        request = gr.Textbox(*known[:1], label="Request", lines=1, max_lines=4, elem_id="request")
        others = gr.Examples(
            [[text] for text in known] or [[""]], [request], label="or ask about", elem_id="requests",
            example_labels=list(ensemble.requests) or None, visible=bool(known),
        )  # fmt: skip
        sliders = [_slider(ensemble, place) for place in range(MOST_REWARD_MODELS)]
        with gr.Row(elem_id="buttons"):
            write = gr.Button("Write", variant="primary", elem_id="write", min_width=120)
            stop = gr.Button("Stop", elem_id="stop", min_width=80)
        manner = _manner()
    with gr.Column(elem_id="words"):
        notice = gr.HTML(elem_id="notice")
        choices = {"choices": [*ensemble.objectives, PLAIN], "value": ensemble.objectives[-1]}
        colors = gr.Radio(**choices, label="Colour words by", elem_id="colors")
        cards = gr.HTML(elem_id="cards")
        gr.HTML(drawing.legend(), elem_id="legend")
    with gr.Column(elem_id="tradeoff", min_width=280):
        picture = gr.HTML(drawing.picture([], None, ensemble.objectives, ""), elem_id="picture")
        explore = gr.Button("Measure the picture", elem_id="explore", visible=not ensemble.quick)
    return _Parts(session, request, others, sliders, write, stop, picture, colors, cards, notice, manner, explore)


def _slider(ensemble: Ensemble, place: int) -> Any:
    """The slider of a reward model; there are as many as there can ever be, and those without one are hidden."""
    return gradio().Slider(step=0.1, elem_id=f"alpha-{place}", **_says(ensemble, place))


def _says(ensemble: Ensemble, place: int) -> dict[str, Any]:
    """What a slider is to be; a reward model may ask for an alpha outside of the usual range."""
    if place >= len(ensemble.arms):
        return {"minimum": 0.0, "maximum": LARGEST_ALPHA, "value": 0.0, "label": "none", "visible": False}
    alpha = ensemble.alphas[place]
    reach = {"minimum": min(0.0, alpha), "maximum": max(LARGEST_ALPHA, alpha), "value": alpha}
    return reach | {"label": f"{ensemble.objectives[place]} (alpha)", "visible": True}


def _manner() -> list[Any]:
    gr = gradio()
    usual = Manner()
    with gr.Accordion("How it writes", open=False, elem_id="manner"):
        return [
            gr.Slider(0, 2, usual.temperature, step=0.1, label="Temperature (0: the likeliest word)"),
            gr.Slider(8, 256, usual.max_new_tokens, step=8, label="Tokens at most"),
            gr.Number(usual.seed, precision=0, label="Seed"),
            gr.Slider(0, 60, usual.pace, step=1, label="Tokens a second at most (0: as fast as it goes)"),
        ]


def _add_models(parts: _Parts, load: Loader) -> None:
    """A part of the page where the visitor names other models."""
    gr = gradio()
    with gr.Accordion("Other models", open=False, elem_id="models"):
        base = gr.Textbox(label="Base", placeholder="folder or name on the hub", elem_id="base")
        arms = gr.Textbox(
            label="Reward models", lines=2, placeholder="folders or names on the hub, one a line", elem_id="arms"
        )
        button = gr.Button("Load", elem_id="load")

    def choose(session: Session, base: str, arms: str) -> dict[Any, Any]:
        try:
            session.choose(load(base, arms.splitlines()))
        except Exception as error:
            return {parts.notice: drawing.notice(sentence(error))}
        found = session.ensemble
        said = f"Loaded. {base.strip()} is guided by {', '.join(found.objectives)}."
        changes = {parts.notice: drawing.notice(said, "hint"), parts.cards: "", parts.request: ""}
        changes |= {parts.picture: session.picture(), parts.explore: gr.update(visible=not found.quick)}
        changes |= {parts.others.dataset: gr.update(visible=False)}  # these were the other models' requests
        changes |= {parts.colors: gr.update(choices=[*found.objectives, PLAIN], value=found.objectives[-1])}
        return changes | {slider: gr.update(**_says(found, place)) for place, slider in enumerate(parts.sliders)}

    outputs = [parts.notice, parts.cards, parts.request, parts.picture, parts.explore, parts.others.dataset]
    button.click(
        choose, [parts.session, base, arms], [*outputs, parts.colors, *parts.sliders], api_visibility="private"
    )


# ---------------------------------------------------------------------- what happens when


def _connect(page: Any, parts: _Parts) -> None:
    shows = [parts.notice, parts.cards, parts.picture]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    at_once = quiet | {"queue": False}
    asks = [parts.session, parts.request, parts.colors, *parts.manner, *parts.sliders]
    many = quiet | {"trigger_mode": "multiple", "concurrency_limit": None}
    for event in (page.load, parts.write.click, parts.request.submit, parts.others.load_input_event.then):
        event(_write, asks, shows, **many)
    for slider in parts.sliders:
        slider.input(_move, [parts.session, *parts.sliders], None, **at_once, trigger_mode="always_last")
        slider.change(_follow, [parts.session, *parts.sliders], shows, **quiet, trigger_mode="always_last")
    parts.stop.click(Session.stop, [parts.session], None, **at_once)
    parts.colors.change(Session.cards, [parts.session, parts.colors], parts.cards, **quiet)
    parts.explore.click(_explore, [parts.session], shows, **quiet)


def _write(session: Session, request: str, shown: str, *numbers: Any) -> Iterator[tuple[Any, ...]]:
    temperature, length, seed, pace = numbers[:4]

    def views() -> Iterator[View]:
        session.move(numbers[4:])
        manner = Manner(float(temperature), int(length), int(seed or 0), float(pace))
        yield from session.write(request, manner, shown)
        if session.ensemble.quick:
            yield from session.explore()

    yield from _updates(views)


def _follow(session: Session, *values: float) -> Iterator[tuple[Any, ...]]:
    """The picture's point follows the sliders, where that takes no time."""
    session.move(values)
    if session.ensemble.quick:
        yield from _updates(session.follow)


def _explore(session: Session) -> Iterator[tuple[Any, ...]]:
    yield from _updates(session.explore)


def _move(session: Session, *values: float) -> None:
    session.move(values)


def _updates(views: Callable[[], Iterator[View]]) -> Iterator[tuple[Any, ...]]:
    """Views as gradio takes them: notice, cards, picture."""
    skip = gradio().skip()
    with closing(told(views)) as seen:
        for view in seen:
            yield tuple(skip if part is None else part for part in (view.notice, view.cards, view.picture))
