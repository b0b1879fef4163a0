"""Optimisation: parameter groups, learning rates, objectives."""
