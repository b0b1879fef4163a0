"""The work of each command: from a config to the files in ``OUTPUT_DIR``."""
