"""Processes that read, and the memory that batches travel in; see ``loader.py``."""
