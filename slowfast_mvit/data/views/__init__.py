"""From frames to views: which frames, which pixels, and what is drawn for training."""
