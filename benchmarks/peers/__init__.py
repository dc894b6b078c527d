"""The same weights, the same prompts, interleaved: Treeline, transformers and llama.cpp."""
