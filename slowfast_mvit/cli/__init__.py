"""The commands: ``slowfast-mvit ...`` and PySlowFast's ``tools/run_net.py``."""

from slowfast_mvit.cli.commands import main, run_net

__all__ = ["main", "run_net"]
