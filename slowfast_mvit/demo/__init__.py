"""The synthetic data sets of the demo."""
