"""Kernels broken on purpose: what the suites are worth is how many of them they notice."""
