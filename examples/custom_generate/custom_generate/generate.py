"""Guided generation as a `custom_generate` repository: `generate()` with reward models (GenARM, arXiv 2410.08193)."""

import functools

from transformers import GenerationMixin

from genarm_hf.decoding.generation import generate_guided


def generate(*args, model, **kwargs):
    """Generate with `model`, guided by `reward_models` with strength `alpha`.

    Takes what `model.generate()` takes, and `reward_models`, `alpha`, `reward_inputs`, `output_rewards`,
    `share_backbone`, `reward_tokenizers`. `model` is by name only: transformers passes it so, and where it is loaded
    together with this repository, the inputs may come without a name.
    """
    # of the class: `model.generate` may be this very function
    stock = functools.partial(GenerationMixin.generate, model)
    return generate_guided(stock, model, args, kwargs)
