"""Treeline beside what else runs a model that is larger than memory, on the same weights and under the same limit."""
