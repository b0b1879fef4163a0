"""What the words on a command line mean. The work itself is in the modules beside."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from slowfast_mvit import __version__
from slowfast_mvit.config import Config, load_config, split_cfg_words
from slowfast_mvit.errors import ConfigError, UserError

DEMO_CONFIG = "Demo/motion.yaml"
CFG_HELP = (
    "one or more config files, run one after another, then KEY VALUE overrides; a file that is not "
    "found from here is looked for among the configs that come with slowfast_mvit"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command of ``slowfast-mvit``; returns the exit status."""
    arguments = _parser().parse_args(argv)
    return _guarded(lambda: arguments.command(arguments))


def run_net(argv: Sequence[str] | None = None) -> int:
    """PySlowFast's command line: train and test what each config file asks for."""
    parser = argparse.ArgumentParser(
        prog="run_net.py",
        description="Train and test MViT on videos, as the config files ask for.",
        epilog="example: run_net.py --cfg configs/Kinetics/MVITv2_S_16x4.yaml "
        "DATA.PATH_TO_DATA_DIR /data/k400 OUTPUT_DIR runs/k400",
    )
    _add_config_arguments(parser)
    parser.add_argument("--shard_id", type=int, default=None, help="number of this node, from 0")
    parser.add_argument("--num_shards", type=int, default=None, help="number of nodes")
    parser.add_argument(
        "--init_method", default=None, help="how several nodes meet; not read for one"
    )
    arguments = parser.parse_args(argv)
    return _guarded(lambda: _for_each_config(arguments, _train_and_test))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slowfast-mvit",
        description="Train, test and use MViT and MViTv2 for video, "
        "with PySlowFast's configs, lists and weights.",
    )
    parser.add_argument("--version", action="version", version=f"slowfast_mvit {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    for name, run, what in (
        ("train", _train, "train, and validate on the way"),
        ("test", _test, "test over several views of each video and write a report"),
    ):
        command = commands.add_parser(name, help=what, description=what.capitalize() + ".")
        _add_config_arguments(command)
        command.set_defaults(command=lambda arguments, run=run: _for_each_config(arguments, run))

    command = commands.add_parser(
        "predict", help="name what happens in a video", description="Name what happens in a video."
    )
    command.add_argument("video", help="a video file, a folder of frames or an image")
    command.add_argument("--weights", required=True, help="a checkpoint written by training")
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


def _for_each_config(arguments: argparse.Namespace, run: Callable[[Config], None]) -> None:
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
    # All files are read before the first run starts: a typo in the last must not show up tomorrow.
    for config in [load_config(file, overrides) for file in files]:
        run(config)


def _train(config: Config) -> None:
    from slowfast_mvit.cli.training import train_job

    train_job(config)


def _test(config: Config) -> None:
    from slowfast_mvit.cli.testing import test_job

    test_job(config)


def _train_and_test(config: Config) -> None:
    if not (config.train.enable or config.test.enable):
        raise ConfigError("nothing to do: TRAIN.ENABLE and TEST.ENABLE are both False")
    if config.train.enable:
        _train(config)
    if config.test.enable:
        _test(config)


def _predict(arguments: argparse.Namespace) -> None:
    from slowfast_mvit.cli import jobs

    jobs.predict_job(
        arguments.video,
        weights=arguments.weights,
        config_file=arguments.cfg,
        top_k=arguments.top_k,
        num_clips=arguments.clips,
    )


def _report(arguments: argparse.Namespace) -> None:
    from slowfast_mvit.cli import reporting

    reporting.report_job(arguments.output_dir)


def _demo(arguments: argparse.Namespace) -> None:
    from slowfast_mvit.cli import jobs

    config = load_config(DEMO_CONFIG, arguments.overrides)
    jobs.make_demo_data(config)
    if not arguments.data_only:
        _train_and_test(config)


def _guarded(run: Callable[[], None]) -> int:
    """Turn what a user can cause into one message and an exit status, without a traceback."""
    try:
        run()
    except UserError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    return 0
