"""A Hugging Face Space: the playground, whose visitors may move the sliders but not load other models."""

from genarm_hf.app import open_playground, serve

serve(open_playground())
