"""Treeline beside its peers: every figure the documentation quotes has its command here."""
