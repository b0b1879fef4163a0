"""The forms a list may have; ``lists.py`` holds what they become, ``catalog.py`` names them."""
