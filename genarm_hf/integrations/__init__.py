"""Guidance inside what others built around models: pipelines and engines."""
