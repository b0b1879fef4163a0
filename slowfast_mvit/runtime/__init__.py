"""Devices, ranks, checkpoints and logs of a run. Nothing here knows about video."""
