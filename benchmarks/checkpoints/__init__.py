"""Checkpoints of a published model's size that say what a small one says."""
