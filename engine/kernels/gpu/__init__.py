"""What launches the Triton kernels: weights, layers, passes, and their recording as CUDA graphs."""
