"""Items, batches, and the worker processes with the memory they share; see ``loader.py``."""
