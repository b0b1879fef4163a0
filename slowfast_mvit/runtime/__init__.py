"""What a run needs around it: devices, checkpoints, logs. Nothing here knows about video."""
