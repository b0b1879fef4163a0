"""Scripts that turn annotations and files on disk into checked lists; run from a checkout."""
