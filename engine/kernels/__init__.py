"""Numerical kernels: a plain torch reference and the fast paths that agree with it."""
