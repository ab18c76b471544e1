"""One visitor: where the sliders stand, what was written last and what it was worth; all that the page shows."""

import os
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from . import drawing
from .credit import Credit, credits
from .ensemble import Asked, Ensemble
from .tradeoff import REPLIES, Point, judged, measure, settings, unit
from .writing import STRENGTHS, Dials, Manner, Reply, write

LARGEST_ALPHA = 2.0  # of a slider
UNKNOWN_REQUEST = (
    "This small world has never heard of that: it knows twenty things to ask for, such as the ones below. "
    "Points are left out."
)


@dataclass(frozen=True)
class View:
    """What changed on the page; None: nothing."""

    notice: str | None = None
    cards: str | None = None
    picture: str | None = None


@dataclass
class Session:
    """What one visitor has before them.

    Attributes:
        ensemble: the models they play with.
        dials: their sliders.
        strengths: a reply is written at each.
        samples: replies that each setting of the picture is measured on.
    """

    ensemble: Ensemble
    dials: Dials = field(default_factory=Dials)
    strengths: tuple[float, ...] = STRENGTHS
    samples: int = REPLIES
    _asked: Asked | None = None
    _manner: Manner = field(default_factory=Manner)
    _replies: list[Reply] = field(default_factory=list)
    _credits: list[list[list[Credit]]] = field(default_factory=list)
    _worth: list[list[float]] = field(default_factory=list)
    _subject: tuple[str, float, int] | None = None  # of the picture
    _path: list[Point] = field(default_factory=list)
    _now: Point | None = None
    _turn: int = 0  # counts writings, so that one notices that another has begun
    _stopped: bool = False

    def choose(self, ensemble: Ensemble) -> None:
        """Play with other models from here on."""
        fresh = Session(ensemble, Dials(ensemble.alphas), self.strengths, self.samples, _turn=self._turn + 1)
        self.__dict__.update(fresh.__dict__)

    def move(self, values: Sequence[float]) -> None:
        """The sliders stand elsewhere now, for whatever is being written too."""
        self.dials.values = tuple(map(float, values[: len(self.ensemble.arms)]))

    def stop(self) -> None:
        """End the writing after the next token, and show what there is."""
        self._stopped = True

    def write(self, request: str, manner: Manner, shown: str) -> Iterator[View]:
        """Write to a request, and show it growing; then what each word earned.

        Args:
            request: what the models are to answer.
            manner: how.
            shown: the objective by which words are coloured in the end.
        """
        self._turn += 1
        turn, self._stopped = self._turn, False
        asked = self.ensemble.ask(request)
        subject = (asked.text, manner.temperature, manner.max_new_tokens)
        if subject != self._subject:
            self._subject, self._path = subject, []
        self._asked, self._manner, self._now = asked, manner, None
        self._replies, self._credits, self._worth = [], [], []
        yield View(notice=self._remark(asked), picture=None if self._path else self.picture())
        with closing(write(self.ensemble, asked, self.dials, manner, self.strengths)) as growing:
            for replies in growing:
                if turn != self._turn:
                    return
                self._replies = replies
                yield View(cards=drawing.cards(replies, self.ensemble.objectives))
                if self._stopped:
                    break
        self._judge(asked)
        yield View(cards=self.cards(shown))

    def _remark(self, asked: Asked) -> str:
        lost = self.ensemble.judge is not None and self.ensemble.judge(asked.text, "") is None
        return drawing.notice(UNKNOWN_REQUEST, "hint") if lost else ""

    def _judge(self, asked: Asked) -> None:
        ids = [reply.ids for reply in self._replies]
        self._credits = [credits(self.ensemble, asked, reply) for reply in ids]
        self._worth = judged(self.ensemble, asked, ids) if all(ids) else []

    def cards(self, shown: str) -> str:
        """The replies, with words coloured by an objective."""
        if self._asked is None:
            return ""
        objectives = self.ensemble.objectives
        return drawing.cards(
            self._replies, objectives, self._credits, shown, self._worth, unit(self.ensemble, self._asked)
        )

    def explore(self) -> Iterator[View]:
        """Measure the settings of the picture, if that was not done for this request, and where the sliders stand."""
        if self._asked is None:
            return
        asked, alphas = self._asked, settings(len(self.ensemble.arms), LARGEST_ALPHA)
        if not self._path:
            path = measure(self.ensemble, asked, alphas, self._manner, self.samples)
            if asked is not self._asked:
                return  # another request was made meanwhile
            self._path = path
            yield View(picture=self.picture())
        yield from self.follow()

    def follow(self) -> Iterator[View]:
        """Measure where the sliders stand, if there is a picture to show it in."""
        asked = self._asked
        if asked is None or not self._path:
            return
        now = measure(self.ensemble, asked, [self.dials.values], self._manner, self.samples)[0]
        if asked is self._asked:
            self._now = now
            yield View(picture=self.picture())

    def picture(self) -> str:
        """The picture as far as it is known."""
        said = "" if self._asked is None else unit(self.ensemble, self._asked)
        return drawing.picture(self._path, self._now, self.ensemble.objectives, said)


def told(views: Callable[[], Iterator[View]]) -> Generator[View, None, None]:
    """Views, and a sentence in the place of an error."""
    try:
        yield from views()
    except Exception as error:
        if os.environ.get("GENARM_HF_DEBUG"):
            traceback.print_exc()
        yield View(notice=drawing.notice(sentence(error)))


def sentence(error: BaseException) -> str:
    """What a visitor is told of an error.

    Example:
        >>> sentence(ValueError("The request is empty."))
        'The request is empty.'
        >>> sentence(KeyError("x"))
        "Something went wrong (KeyError: 'x'). The terminal says more if the app is started with GENARM_HF_DEBUG=1."
    """
    said = " ".join(str(error).split())
    if isinstance(error, (ValueError, TypeError, OSError, ImportError)) and said:
        return said
    return (
        f"Something went wrong ({type(error).__name__}: {said}). The terminal says more if the app is started with "
        "GENARM_HF_DEBUG=1."
    )
