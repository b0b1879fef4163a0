"""How a training view is worked out; ``transforms.py`` says what is drawn."""
