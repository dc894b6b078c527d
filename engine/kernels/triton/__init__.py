"""The GPU kernels, in Triton's language: bodies only; `engine.kernels.gpu` launches them."""
