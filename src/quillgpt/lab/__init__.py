"""Attention research: train kernels side by side, look at what they compute, and put one in place of another."""
