"""Treeline's language server. It never imports torch."""
