"""Treeline's inference engine: lossless tree speculation over a target that may not fit the machine."""

__version__ = "0.1.0"
