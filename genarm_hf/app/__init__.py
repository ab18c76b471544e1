"""The page of `genarm-hf app`: sliders that steer a model while it writes, and what each word earned.

`ensemble` says who plays, `playground` trains reward models for the packaged base once, `writing` streams replies
under sliders that may move, `credit` reads what was written, `tradeoff` measures where the sliders stand, `drawing`
turns all of it into HTML, and a `session` is one visitor's. None of these knows gradio; `page` alone does.
"""

from .ensemble import Ensemble, load
from .page import build, serve
from .playground import open_playground

__all__ = ["Ensemble", "build", "load", "open_playground", "serve"]
