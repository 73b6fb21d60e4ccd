"""Attention research: train kernels side by side, look at their weights, and replace one kernel by another."""
