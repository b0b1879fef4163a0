"""The commands: from a Config, or a folder, to files and lines."""
