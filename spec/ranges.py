"""How the range of a tensor that int8 covers is chosen from what calibration observes."""

__all__ = ["FAR", "RANGES"]

#: The whole range; a percentile of the values; the range with the least square error.
RANGES = ("minmax", "percentile", "mse")
#: Decibels of signal to noise below which an output counts as far from float.
FAR = 20.0
