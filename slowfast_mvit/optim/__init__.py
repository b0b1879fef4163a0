"""What is optimised and how: parameter groups, learning rates, objectives."""
