"""Measurements that anyone can repeat: `genarm-hf bench`. Ratios, alternated in one process, with intervals."""
