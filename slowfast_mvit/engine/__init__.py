"""The loops: training, validation, scoring. They receive built objects and plain numbers."""
