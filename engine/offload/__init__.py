"""Targets larger than memory: repacked once into a store, and streamed from it during each pass."""
