"""Guided decoding: a guided model is itself a causal LM, so the stock `generate()` loop is reused as it is."""

# before any room of this package: when it has been imported, it calls back to `generation`, which must not be half made
import transformers.generation.utils  # noqa: F401
