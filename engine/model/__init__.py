"""One decoder for every family, its weights and its KV cache."""
