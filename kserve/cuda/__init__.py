"""CUDA kernels for training, as far as they need no torch: compiler, devices, and when which kernel runs."""
