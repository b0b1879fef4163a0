"""The arguments of each command. The work is in ``jobs`` and ``launch``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from slowfast_mvit import __version__
from slowfast_mvit.cli.exit_status import guarded
from slowfast_mvit.cli.finetune_flags import add_finetune_arguments
from slowfast_mvit.cli.launch_flags import (
    add_launch_arguments,
    add_ray_arguments,
    launched_words,
    requested_launch,
)
from slowfast_mvit.cli.weights import EXAMPLES, add_weights_arguments
from slowfast_mvit.config import Config, load_config, split_cfg_words
from slowfast_mvit.errors import ConfigError

DEMO_CONFIG = "Demo/motion.yaml"
CFG_HELP = (
    "one or more config files, run one after another, then KEY VALUE overrides; a file that is not "
    "found from here is looked for among the configs that come with slowfast_mvit"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command of ``slowfast-mvit``; returns the exit status."""
    arguments = _parser().parse_args(argv)
    arguments.words = sys.argv[1:] if argv is None else list(argv)
    return guarded(lambda: arguments.command(arguments))


def run_net(argv: Sequence[str] | None = None) -> int:
    """PySlowFast's command line: train and test what each config file asks for."""
    parser = argparse.ArgumentParser(
        prog="run_net.py",
        description="Train and test MViT on videos, as the config files ask for.",
        epilog="example: run_net.py --cfg configs/Kinetics/MVITv2_S_16x4.yaml "
        "DATA.PATH_TO_DATA_DIR /data/k400 OUTPUT_DIR runs/k400",
    )
    _add_run_net_arguments(parser)
    arguments = parser.parse_args(argv)
    arguments.words = ["run_net", *(sys.argv[1:] if argv is None else argv)]
    return guarded(lambda: arguments.command(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slowfast-mvit",
        description="Train, test and use MViT and MViTv2 for video, "
        "with PySlowFast's configs, lists and weights.",
    )
    parser.add_argument("--version", action="version", version=f"slowfast_mvit {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = commands.add_parser(
        "train",
        help="train, and validate on the way",
        description="Train, and validate on the way.",
    )
    _add_config_arguments(command)
    command.set_defaults(command=lambda arguments: _for_each_config(arguments, _train))

    command = commands.add_parser(
        "test",
        help="test over several views of each video and write a report",
        description="Test over several views of each video and write a report. A test that was "
        "killed goes on with the videos that it had not scored.",
    )
    _add_config_arguments(command)
    command.add_argument(
        "--part",
        default="1/1",
        metavar="N/M",
        help="score one of M parts of the list, as a job of its own; then: slowfast-mvit merge",
    )
    command.set_defaults(
        command=lambda arguments: _for_each_config(arguments, partial(_test, part=arguments.part))
    )

    command = commands.add_parser(
        "merge",
        help="join the parts of a test",
        description="Join the parts of a test that several jobs have scored (test --part), and "
        "write results and report into the first folder.",
    )
    command.add_argument("output_dir", nargs="+", help="OUTPUT_DIR of one or several of the jobs")
    command.set_defaults(command=_merge)

    command = commands.add_parser(
        "run_net",
        help="train and test as the config asks for: PySlowFast's tools/run_net.py",
        description="Train and test as the config files ask for, as PySlowFast's tools/run_net.py.",
    )
    _add_run_net_arguments(command)

    command = commands.add_parser("finetune", help="train on your own classes, from weights")
    add_finetune_arguments(command)
    command.set_defaults(command=_finetune)

    command = commands.add_parser("launch", help="start a command as several processes (torchrun)")
    add_launch_arguments(command)
    command.set_defaults(command=_launch)

    command = commands.add_parser("ray", help="train as a job of Ray Train")
    add_ray_arguments(command)
    command.set_defaults(command=_ray)

    command = commands.add_parser(
        "predict", help="name what happens in a video", description="Name what happens in a video."
    )
    command.add_argument("video", help="a video file, a folder of frames or an image")
    command.add_argument(
        "--weights", required=True, help="a checkpoint, or a folder (weights convert)"
    )
    command.add_argument("--ema", action="store_true", help="take the moving average in it")
    command.add_argument("--cfg", help="the config of the weights, if the checkpoint holds none")
    command.add_argument("--top-k", type=int, default=5, help="classes to show (default: 5)")
    command.add_argument("--clips", type=int, default=5, help="clips to look at (default: 5)")
    command.set_defaults(command=_predict)

    command = commands.add_parser(
        "report",
        help="write report.html again from the results of a test",
        description="Write report.html again from the results of a test.",
    )
    command.add_argument("output_dir", help="OUTPUT_DIR of the test")
    command.set_defaults(command=_report)

    command = commands.add_parser(
        "watch",
        help="show the state and the curves of a run in the terminal",
        description="Show the state and the curves of a training run, from the files it writes, "
        "until it is finished or Ctrl-C.",
    )
    command.add_argument("output_dir", help="OUTPUT_DIR of the run, a local folder")
    command.add_argument("--once", action="store_true", help="show it once and end")
    command.set_defaults(command=_watch)

    command = commands.add_parser(
        "weights",
        help="show what a file of weights is, or convert it",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_weights_arguments(command)

    command = commands.add_parser(
        "demo",
        help="make a video data set, train on it, test, write a report (minutes on 2 CPU cores)",
        description="Make a data set of synthetic motion, train a small MViTv2 on it, test it and "
        "write runs/demo/report.html. Minutes on 2 CPU cores.",
    )
    command.add_argument("--data-only", action="store_true", help="only make the data set")
    command.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="changes to the demo's config"
    )
    command.set_defaults(command=_demo)
    return parser


def _add_config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cfg", nargs="+", default=[], metavar="FILE", dest="cfg_words", help=CFG_HELP
    )
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="more overrides"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="more overrides")


def _add_run_net_arguments(parser: argparse.ArgumentParser) -> None:
    _add_config_arguments(parser)
    parser.add_argument("--shard_id", type=int, default=None, help="number of this node, from 0")
    parser.add_argument("--num_shards", type=int, default=None, help="number of nodes")
    parser.add_argument(
        "--init_method",
        metavar="tcp://HOST:PORT",
        help="where several nodes meet: a free port of node 0; not read for one node",
    )
    parser.set_defaults(command=lambda arguments: _for_each_config(arguments, _train_and_test))


def _launch(arguments: argparse.Namespace) -> int:
    from slowfast_mvit.launch.torchrun import launch_command

    return launch_command(requested_launch(arguments), launched_words(arguments))


def _ray(arguments: argparse.Namespace) -> None:
    from slowfast_mvit.jobs.train import train_job
    from slowfast_mvit.launch.ray import RayJob, fit

    words = launched_words(arguments)
    if words[:1] != ["train"]:
        raise ConfigError(
            "ray runs train: write -- train --cfg FILE after its own flags, "
            f"got {shlex.join(words) or 'nothing'}"
        )
    job = RayJob(arguments.num_workers, arguments.cpus_per_worker, arguments.max_failures)
    for config in _configs(_parser().parse_args(words)):
        fit(config, job, train_job)


def _for_each_config(arguments: argparse.Namespace, run: Callable[[Config], None]) -> int | None:
    configs = _configs(arguments)

    from slowfast_mvit.launch.torchrun import launch_as_configured

    init_method = getattr(arguments, "init_method", None)
    status = launch_as_configured(configs, arguments.words, init_method=init_method)
    if status is None:
        from slowfast_mvit.jobs.run import run_in_group

        run_in_group(configs, run)
    return status


def _finetune(arguments: argparse.Namespace) -> int | None:
    from slowfast_mvit.jobs.finetune import finetune_config, finetune_job
    from slowfast_mvit.launch.torchrun import launch_as_configured
    from slowfast_mvit.runtime.log import setup_logging

    setup_logging()
    config = finetune_config(arguments)
    status = launch_as_configured([config], arguments.words)
    if status is None:
        from slowfast_mvit.jobs.run import run_in_group

        run_in_group([config], finetune_job)
    return status


def _configs(arguments: argparse.Namespace) -> list[Config]:
    """Return what the words of a command load, all of it.

    All files are read before the first run starts: a typo in the last must not show up tomorrow.
    """
    files, overrides = split_cfg_words(arguments.cfg_words)
    if not files:
        raise ConfigError("no config file given. Name one, as in --cfg Kinetics/MVITv2_S_16x4.yaml")
    overrides += [*arguments.overrides, *arguments.opts]
    for key, value in (
        ("SHARD_ID", getattr(arguments, "shard_id", None)),
        ("NUM_SHARDS", getattr(arguments, "num_shards", None)),
    ):
        if value is not None:
            overrides += [key, str(value)]
    return [load_config(file, overrides) for file in files]


def _train(config: Config, *, then_tests: bool = False) -> None:
    from slowfast_mvit.jobs.train import train_job

    train_job(config, then_tests=then_tests)


def _test(config: Config, part: str = "1/1") -> None:
    from slowfast_mvit.jobs.test import parse_part, test_job

    test_job(config, parse_part(part))


def _merge(arguments: argparse.Namespace) -> None:
    from slowfast_mvit.jobs.test import merge_job

    merge_job(arguments.output_dir)


def _train_and_test(config: Config) -> None:
    if not (config.train.enable or config.test.enable):
        raise ConfigError("nothing to do: TRAIN.ENABLE and TEST.ENABLE are both False")
    if config.train.enable:
        _train(config, then_tests=config.test.enable)
    if config.test.enable:
        _test(config)


def _predict(arguments: argparse.Namespace) -> None:
    from slowfast_mvit.jobs.predict import predict_job

    predict_job(
        arguments.video,
        weights=arguments.weights,
        config_file=arguments.cfg,
        ema=arguments.ema,
        top_k=arguments.top_k,
        num_clips=arguments.clips,
    )


def _report(arguments: argparse.Namespace) -> None:
    from slowfast_mvit.jobs import report

    report.report_job(arguments.output_dir)


def _watch(arguments: argparse.Namespace) -> None:
    from slowfast_mvit.jobs.watch import watch_job

    watch_job(arguments.output_dir, once=arguments.once)


def _demo(arguments: argparse.Namespace) -> None:
    from slowfast_mvit.demo.synthetic import write_motion_dataset
    from slowfast_mvit.runtime.log import setup_logging

    setup_logging()
    config = load_config(DEMO_CONFIG, arguments.overrides)
    write_motion_dataset(Path(config.data.path_to_data_dir))
    if not arguments.data_only:
        _train_and_test(config)
