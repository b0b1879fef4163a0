"""One module for each library that reads videos, and what they share; see ``readers.py``."""
