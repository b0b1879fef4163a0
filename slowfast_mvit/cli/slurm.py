"""``slowfast-mvit slurm``: a batch script for Slurm that queues itself again until the run is done.

The script starts one ``slowfast-mvit launch`` on each node. It takes no clever part in training:
saving at a signal and going on from the last checkpoint are the trainer's own.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slowfast_mvit.config import Config
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.storage import is_remote, write_text_atomically

SCRIPT_NAME = "slurm.sh"
LOG_NAME = "slurm-%j.log"
WARNING_S = 120  # from Slurm's early signal to the end of the time limit

# What follows the options. Each comment states what Slurm 22.05 does, as it was found to.
BODY = r"""
restarts=${SLURM_RESTART_COUNT:-0}
first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))  # so that jobs that share a node do not meet each other
echo "slurm: job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, queued again $restarts times"

# On each node. srun gives the highest status of all nodes: 2, "do not try again", must not drown
# among those of nodes that were ended because of it. The shell outlives signals to tell it.
# is_host: names do not always say which node is the first.
on_each_node='
trap : USR1 TERM
"$1" -m slowfast_mvit launch --rdzv_conf "is_host=$((SLURM_NODEID == 0))" "${@:2}"
status=$?
((status == 2)) && exit 255
exit $status'

# Slurm warns this shell alone, before the time limit (USR1). TERM comes to it when the job is
# cancelled, and to the step alone when it is preempted. srun forwards USR1, but dies of TERM.
stop() {
    interrupted=1
    kill -USR1 "$step" 2>/dev/null
}
trap stop USR1 TERM
srun --ntasks-per-node=1 --kill-on-bad-exit=1 $srun_options \
    bash -c "$on_each_node" launch "$python" \
    --rdzv_endpoint "$first_node:$port" --rdzv_id "slurm-$SLURM_JOB_ID-$restarts" "${command[@]}" &
step=$!
interrupted=1
while ((interrupted)); do  # a signal ends `wait`, not the step
    interrupted=0
    wait "$step"
    status=$?
done

case $status in
    0) exit 0 ;;
    255) exit 2 ;;
esac
# A job that was cancelled, or has run out of time, is completing by now; one that was preempted
# is not, and Slurm would not queue it again: it counts as failed once this script ends.
state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)
if [[ $state != RUNNING ]]; then
    echo "slurm: status $status; the job is ${state:-gone}, and is not queued again"
elif ((restarts >= max_requeues)); then
    echo "slurm: status $status after $((restarts + 1)) starts; giving up"
else
    echo "slurm: status $status; queued again, and the run goes on from its last checkpoint"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


@dataclass(frozen=True)
class SlurmJob:
    """What to ask Slurm for.

    Attributes:
        nodes: number of nodes.
        gpus_per_node: GPUs, and so processes, on each; 0 for one process on CPUs.
        cpus_per_gpu: cores for each process.
        max_requeues: how often the job queues itself again.
        options: more of sbatch's options, as "NAME=VALUE" or "NAME", without dashes.
    """

    nodes: int
    gpus_per_node: int
    cpus_per_gpu: int
    max_requeues: int
    options: tuple[str, ...] = ()


def slurm_job(
    arguments: argparse.Namespace, words: Sequence[str], configs: Sequence[Config]
) -> None:
    """What ``slowfast-mvit slurm`` does: write the script, and submit it or print it.

    Args:
        arguments: as ``add_slurm_arguments`` defines them.
        words: the command to run on the nodes, as ``slowfast-mvit`` understands it.
        configs: what it loads, so that a mistake is found before the job has waited in a queue.
    """
    config = configs[0]
    job = SlurmJob(
        nodes=arguments.nodes,
        gpus_per_node=arguments.gpus_per_node,
        cpus_per_gpu=arguments.cpus_per_gpu or max(1, config.data_loader.num_workers),
        max_requeues=arguments.max_requeues,
        options=(
            *(f"{name}={value}" for name, value in _named(arguments) if value),
            *arguments.sbatch,
        ),
    )
    for other in configs:
        check_job(job, other)
    place = _script_place(arguments.script, config)
    script = sbatch_script(job, words, output_dir=place.parent, folder=Path.cwd())
    if arguments.dry_run:
        print(script, end="")
        return
    write_text_atomically(place, script)
    print(f"{_submit(place)}; the script is {place}")


def check_job(job: SlurmJob, config: Config) -> None:
    """Refuse a job whose processes would refuse its config.

    Raises:
        ConfigError: the config asks for other nodes or devices than the job.
    """
    if config.num_shards not in (1, job.nodes):
        raise ConfigError(
            f"NUM_SHARDS is {config.num_shards}, but --nodes is {job.nodes}. Leave NUM_SHARDS "
            "out: under Slurm the number of nodes is that of the job"
        )
    if (config.num_gpus == 0) != (job.gpus_per_node == 0):
        raise ConfigError(
            f"NUM_GPUS is {config.num_gpus}, but --gpus-per-node is {job.gpus_per_node}. "
            "Training on CPUs needs 0 in both, training on GPUs in neither"
        )
    if config.train.batch_size % max(1, job.gpus_per_node):
        raise ConfigError(
            f"TRAIN.BATCH_SIZE is {config.train.batch_size} videos a node, which "
            f"{job.gpus_per_node} processes on it cannot share evenly. Choose a multiple"
        )


def sbatch_script(job: SlurmJob, words: Sequence[str], *, output_dir: Path, folder: Path) -> str:
    """The text of the script.

    Args:
        job: what to ask Slurm for.
        words: the command to run on the nodes, as ``slowfast-mvit`` understands it.
        output_dir: where the log goes, absolute.
        folder: to run in: relative paths in ``words`` and in the config start there.
    """
    command = [
        *("--nnodes", str(job.nodes), "--nproc_per_node", str(max(1, job.gpus_per_node))),
        *("--max_restarts", "3", "--", *words),
    ]
    cpus = job.cpus_per_gpu * max(1, job.gpus_per_node)
    settings = {
        "max_requeues": str(job.max_requeues),
        "python": shlex.quote(sys.executable),
        # Since Slurm 22.05 a step does not inherit the cores of its job.
        "srun_options": f"--cpus-per-task={cpus}",
        "command": f"({shlex.join(command)})",
    }
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in _sbatch_options(job, cpus, output_dir, folder)),
        "",
        *(f"{name}={value}" for name, value in settings.items()),
    ]
    return "\n".join(lines) + "\n" + BODY


def _sbatch_options(job: SlurmJob, cpus: int, output_dir: Path, folder: Path) -> list[str]:
    log = str(output_dir).replace("%", "%%") + f"/{LOG_NAME}"
    options = [
        f"nodes={job.nodes}",
        "ntasks-per-node=1",
        *([f"gpus-per-node={job.gpus_per_node}"] if job.gpus_per_node else []),
        f"cpus-per-task={cpus}",
        f"chdir={folder}",
        f"output={log}",
        "open-mode=append",
        f"signal=B:USR1@{WARNING_S}",
        "requeue",
    ]
    given = {_option_name(option) for option in job.options}
    kept = [option for option in options if _option_name(option) not in given]
    return [_quoted_option(option) for option in [*kept, *job.options]]


def _option_name(option: str) -> str:
    return option.partition("=")[0]


def _quoted_option(option: str) -> str:
    name, equals, value = option.partition("=")
    if not name or name.startswith("-") or not option.isprintable() or name != shlex.quote(name):
        raise ConfigError(
            f"--sbatch {option!r}: expected an option of sbatch without its dashes, as in "
            "account=vision or exclusive"
        )
    return f"--{name}{equals}{shlex.quote(value) if value else ''}"


def _script_place(script: str | None, config: Config) -> Path:
    if script:
        return Path(script).resolve()
    if is_remote(config.output_dir):
        raise ConfigError(
            f"OUTPUT_DIR {config.output_dir} is not a folder of this machine. Name a place for the "
            "batch script and the log that all nodes can write to, with --script FILE"
        )
    return Path(config.output_dir).resolve() / SCRIPT_NAME


def _submit(script: Path) -> str:
    """Give the script to sbatch; returns what it says."""
    try:
        answer = subprocess.run(["sbatch", str(script)], capture_output=True, text=True)
    except FileNotFoundError:
        raise ConfigError(
            "there is no sbatch on this machine. Run this on a login node of the cluster, or "
            f"print the script with --dry-run. It is in {script}"
        ) from None
    if answer.returncode:
        raise ConfigError(f"sbatch refused {script}: {answer.stderr.strip()}")
    return answer.stdout.strip()


def _named(arguments: argparse.Namespace) -> list[tuple[str, str | None]]:
    return [
        ("time", arguments.time),
        ("partition", arguments.partition),
        ("job-name", arguments.job_name),
    ]


FLAGS: dict[str, dict[str, Any]] = {
    "--nodes": {"type": int, "default": 1, "metavar": "N", "help": "nodes (default: 1)"},
    "--gpus-per-node": {
        "type": int,
        "required": True,
        "metavar": "N",
        "help": "GPUs, and so processes, on each node; 0 for one process on CPUs",
    },
    "--cpus-per-gpu": {
        "type": int,
        "metavar": "N",
        "help": "cores for each process (default: DATA_LOADER.NUM_WORKERS)",
    },
    "--time": {"metavar": "HH:MM:SS", "help": "limit of one start; the job queues itself again"},
    "--partition": {"metavar": "NAME", "help": "Slurm's partition"},
    "--job-name": {"metavar": "NAME", "default": "mvit", "help": "name of the job (default: mvit)"},
    "--max-requeues": {
        "type": int,
        "default": 20,
        "metavar": "N",
        "help": "how often the job queues itself again at most (default: 20)",
    },
    "--sbatch": {
        "action": "append",
        "default": [],
        "metavar": "NAME=VALUE",
        "help": "one more option of sbatch, without its dashes; may be given several times",
    },
    "--script": {
        "metavar": "FILE",
        "help": f"the script to write, the log beside it (default: OUTPUT_DIR/{SCRIPT_NAME})",
    },
    "--dry-run": {"action": "store_true", "help": "print the script, write and submit nothing"},
}

DESCRIPTION = f"""\
Write a batch script that trains on the nodes of a Slurm cluster, and submit it.

  slowfast-mvit slurm --nodes 4 --gpus-per-node 8 --time 24:00:00 -- train --cfg FILE

The job is warned {WARNING_S} s before its time is up, saves, and queues itself again; so it does
after a preemption, the loss of a node or a crash. It ends when training is done, after a mistake in
the config or the data (exit status 2), when it is cancelled, and after --max-requeues.
"""


def add_slurm_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``slurm``; those that sbatch has too have its names."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name, settings in FLAGS.items():
        parser.add_argument(name, **settings)
    parser.add_argument(
        "job_words",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND",
        help="train, test or run_net with their arguments",
    )
