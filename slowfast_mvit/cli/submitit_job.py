"""A run as a job of submitit, for those who start everything with it.

    executor = submitit.AutoExecutor(folder="runs/k400/submitit")
    executor.update_parameters(gpus_per_node=8, cpus_per_task=64, timeout_min=24 * 60)
    executor.submit(LaunchJob(["train", "--cfg", "Kinetics/MVITv2_S_16x4.yaml"]))

One node. ``slowfast-mvit slurm`` does more: several nodes, and going on after a crash, or after a
preemption by SIGTERM, which submitit does not queue again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission


class LaunchJob:
    """What submitit is to run: ``slowfast-mvit launch``, with a process for each GPU of the node.

    When submitit is warned that the job will be ended, the run saves, and the job queues itself
    again and goes on from there.

    Args:
        words: the command, as ``slowfast-mvit`` understands it.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._launch: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Run until it is done.

        Raises:
            CalledProcessError: it ended with another status than 0; the log says why.
        """
        command = [sys.executable, "-m", "slowfast_mvit", "launch", "--max_restarts", "3", "--"]
        self._launch = subprocess.Popen(
            [*command, *self.words],
            # Slurm sends submitit's warning to all processes of the job, and it would kill them.
            preexec_fn=_ignore_warning,
        )
        status = self._launch.wait()
        if status:
            raise subprocess.CalledProcessError(status, [*command, *self.words])

    def checkpoint(self) -> DelayedSubmission:
        """Let the run save and end; submitit calls this when it is warned. Returns what goes on."""
        from submitit.helpers import DelayedSubmission

        if self._launch is not None:
            # Past wait(), which the warning has interrupted inside of its lock.
            os.kill(self._launch.pid, signal.SIGUSR1)
            os.waitpid(self._launch.pid, 0)
        return DelayedSubmission(LaunchJob(self.words))


def _ignore_warning() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
