"""Guided decoding: a guided model is itself a causal LM, so the stock `generate()` loop is reused as it is."""
