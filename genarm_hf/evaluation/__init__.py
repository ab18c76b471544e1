"""What guided generation is worth: arrays in, numbers and figures out. Nothing here runs a model."""

from .metrics import Interval, log_ratios, mean_interval

__all__ = ["Interval", "log_ratios", "mean_interval"]
