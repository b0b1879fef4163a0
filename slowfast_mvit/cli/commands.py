"""The arguments of each command. The work is in ``jobs`` and ``launch``."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from slowfast_mvit import __version__
from slowfast_mvit.cli.exit_status import guarded
from slowfast_mvit.cli.export import add_export_arguments
from slowfast_mvit.cli.flags import (
    add_finetune_arguments,
    add_launch_arguments,
    add_predict_arguments,
    add_ray_arguments,
    add_takeover_argument,
    add_trust_argument,
    launched_words,
    parse_part,
    requested_launch,
)
from slowfast_mvit.cli.parser import Parser
from slowfast_mvit.cli.weights import EXAMPLES, add_weights_arguments
from slowfast_mvit.config import Config, load_config, split_cfg_words, trusted_configs
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.launch import LAUNCHED, rank_command
from slowfast_mvit.runtime.output_lock import require_free

DEMO_CONFIG = "Demo/motion.yaml"
CFG_HELP = (
    "one or more config files, run one after another, then KEY VALUE overrides; other names are "
    "those of the configs shipped with slowfast_mvit"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command of ``slowfast-mvit``; returns the exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    parser = _parser()
    if not words:
        parser.print_help()
        return 0
    arguments = parser.parse_args(words)
    arguments.words = words
    return _run(arguments)


def run_net(argv: Sequence[str] | None = None) -> int:
    """PySlowFast's command line: train and test what each config file asks for."""
    parser = Parser(
        prog="run_net.py",
        description="Train and test MViT on videos, as the config files ask for.",
        epilog="example: run_net.py --cfg configs/Kinetics/MVITv2_S_16x4.yaml "
        "DATA.PATH_TO_DATA_DIR /data/k400 OUTPUT_DIR runs/k400",
    )
    _add_run_net_arguments(parser)
    parser.set_defaults(command=_run_net)
    arguments = parser.parse_args(argv)
    arguments.words = ["run_net", *(sys.argv[1:] if argv is None else argv)]
    return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    with _trust_of(arguments):
        return guarded(lambda: arguments.command(arguments))


def _trust_of(arguments: argparse.Namespace) -> contextlib.AbstractContextManager[None]:
    is_trusting = getattr(arguments, "trust_config", False)
    return trusted_configs() if is_trusting else contextlib.nullcontext()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="slowfast-mvit",
        description="Train, test and use MViT and MViTv2 for video, "
        "with PySlowFast's configs, lists and weights.",
    )
    parser.add_argument("--version", action="version", version=f"slowfast_mvit {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(
        name: str, run: Callable[[argparse.Namespace], int | None], text: str, more: str = ""
    ) -> argparse.ArgumentParser:
        """Add a command; ``text`` and ``more`` are its description, ``text`` alone its help."""
        description = f"{text[0].upper()}{text[1:]}. {more}".rstrip()
        command = commands.add_parser(name, help=text, description=description)
        command.set_defaults(command=run)
        return command

    command = add("train", partial(_for_each_config, run=_train), "train, with validation")
    _add_config_arguments(command)

    command = add(
        "test",
        lambda arguments: _for_each_config(
            arguments,
            partial(_test, part=parse_part(arguments.part)),
            writer=f"test-{arguments.part.replace('/', '-of-')}",
        ),
        "test over several views of each video and write a report",
        "A test that was killed resumes with the videos that it had not scored.",
    )
    _add_config_arguments(command)
    command.add_argument(
        "--part",
        default="1/1",
        metavar="N/M",
        help="score one of M parts of the list, as a separate job; then: slowfast-mvit merge",
    )

    command = add(
        "merge",
        _merge,
        "merge the parts of a test",
        "Several jobs have scored them (test --part); results and report are written into the "
        "first folder.",
    )
    command.add_argument("output_dir", nargs="+", help="OUTPUT_DIR of one or several of the jobs")
    add_takeover_argument(command)
    add_trust_argument(command)

    text = "train and test as configured: PySlowFast's tools/run_net.py"
    _add_run_net_arguments(add("run_net", _run_net, text))
    text = "train on your own classes, from pretrained weights"
    add_finetune_arguments(add("finetune", _finetune, text))
    add_launch_arguments(add("launch", _launch, "start a command as several processes (torchrun)"))
    add_ray_arguments(add("ray", _ray, "train as a job of Ray Train"))

    add_predict_arguments(add("predict", _predict, "predict the classes of videos"))

    command = add(
        "certify",
        _certify,
        "test published weights as their authors did, and compare the accuracy",
        "The same command resumes a test that was killed.",
    )
    command.add_argument("--weights", required=True, help="a name of slowfast-mvit models")
    command.add_argument(
        "--data", required=True, metavar="DIR", help="DATA.PATH_TO_DATA_DIR: the folder of the list"
    )
    command.add_argument("--out", default="", help="OUTPUT_DIR (default: runs/certify/NAME)")
    command.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="changes to the test")

    text = "write a model as a file for a service: ONNX, or torch.export's"
    add_export_arguments(commands.add_parser("export", help=text))

    command = add("models", _models, "list the published weights by name")
    command.add_argument("--json", action="store_true", help="print JSON")

    command = add(
        "report",
        _report,
        "write report.html again from the results of a test",
        "The files in its OUTPUT_DIR are enough, wherever it was moved; no video is read.",
    )
    command.add_argument("output_dir", help="OUTPUT_DIR of the test")
    add_trust_argument(command)

    command = add(
        "watch",
        _watch,
        "show the state and the curves of a run in the terminal",
        "They are read from the files of the run, until it is finished or Ctrl-C.",
    )
    command.add_argument("output_dir", help="OUTPUT_DIR of the run, a local folder")
    command.add_argument("--once", action="store_true", help="show it once and end")

    command = commands.add_parser(
        "weights",
        help="inspect or convert a weights file",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_weights_arguments(command)

    command = add(
        "demo",
        _demo,
        "make a video data set, train on it, test, write a report (minutes on 2 CPU cores)",
        "The data set is synthetic motion, the model a small MViTv2, the report "
        "runs/demo/report.html.",
    )
    command.add_argument("--data-only", action="store_true", help="only make the data set")
    command.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="changes to the demo's config"
    )
    return parser


def _add_config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cfg", nargs="+", default=[], metavar="FILE", dest="cfg_words", help=CFG_HELP
    )
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="more overrides"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="more overrides")
    add_takeover_argument(parser)
    add_trust_argument(parser)


def _add_run_net_arguments(parser: argparse.ArgumentParser) -> None:
    _add_config_arguments(parser)
    parser.add_argument("--shard_id", type=int, default=None, help="number of this node, from 0")
    parser.add_argument("--num_shards", type=int, default=None, help="number of nodes")
    parser.add_argument(
        "--init_method",
        metavar="tcp://HOST:PORT",
        help="rendezvous of several nodes: a free port of node 0; not read for one node",
    )


def _launch(arguments: argparse.Namespace) -> int:
    words = launched_words(arguments)
    rank_command(words)  # or raise
    launch = requested_launch(arguments)
    inner = _parser().parse_args(words) if words[0] in LAUNCHED else None
    if inner is None or inner.command is _finetune:
        return _launch_ranks(launch, words)
    inner.words, inner.launch = words, launch
    with _trust_of(inner):
        status: int = inner.command(inner)  # checks the config once and not on each rank
    return status


def _launch_ranks(launch: Mapping[str, Any], words: Sequence[str]) -> int:
    from slowfast_mvit.launch.agent import Launch
    from slowfast_mvit.launch.torchrun import launch_command

    return launch_command(Launch(**launch), rank_command(words))


def _ray(arguments: argparse.Namespace) -> None:
    words = launched_words(arguments)
    if words[:1] != ["train"]:
        raise ConfigError(
            "ray runs train: write -- train --cfg FILE after its own flags, "
            f"got {shlex.join(words) or 'nothing'}"
        )
    inner = _parser().parse_args(words)
    with _trust_of(inner):
        configs = _configs(inner)

    from slowfast_mvit.jobs.train import train_job
    from slowfast_mvit.launch.ray import RayJob, fit

    job = RayJob(arguments.num_workers, arguments.cpus_per_worker, arguments.max_failures)
    for config in configs:
        fit(config, job, train_job)


def _for_each_config(
    arguments: argparse.Namespace, run: Callable[..., None], writer: str = "train"
) -> int | None:
    return _start(arguments, _configs(arguments), run, writer)


def _start(
    arguments: argparse.Namespace, configs: Sequence[Config], run: Callable[..., None], writer: str
) -> int | None:
    """Run the configs here, or as the processes that they or ``launch`` ask for."""
    launch = getattr(arguments, "launch", None)
    joins = launch is not None and launch["max_nodes"] > 1  # maybe a run that other nodes began
    for config in () if joins else configs:
        _require_free(arguments, config.output_dir, writer)
    if launch is not None:
        return _launch_ranks(launch, arguments.words)
    run = partial(run, takeover=arguments.takeover)

    from slowfast_mvit.launch.torchrun import launch_as_configured

    init_method = getattr(arguments, "init_method", None)
    status = launch_as_configured(configs, arguments.words, init_method=init_method)
    if status is None:
        from slowfast_mvit.jobs.run import run_in_group

        run_in_group(configs, run)
    return status


def _require_free(arguments: argparse.Namespace, folder: str, writer: str) -> None:
    """Refuse a second start at once, before torch is imported; later the lock is taken."""
    if not (arguments.takeover or "RANK" in os.environ):
        require_free(Path(folder), writer)


def _run_net(arguments: argparse.Namespace) -> int | None:
    return _for_each_config(arguments, _train_and_test)


def _finetune(arguments: argparse.Namespace) -> int | None:
    arguments.out = arguments.out or f"runs/finetune/{Path(arguments.data).resolve().name}"
    _require_free(arguments, arguments.out, "train")

    from slowfast_mvit.jobs.finetune import finetune_config, finetune_job
    from slowfast_mvit.runtime.log import setup_logging

    setup_logging()
    return _start(arguments, [finetune_config(arguments)], finetune_job, "train")


def _configs(arguments: argparse.Namespace) -> list[Config]:
    """Load all config files of a command, so that an error in any of them stops the first run."""
    files, overrides = split_cfg_words(arguments.cfg_words)
    if not files:
        raise ConfigError("no config file given. Name one, as in --cfg Kinetics/MVITv2_S_16x4.yaml")
    overrides += [*arguments.overrides, *arguments.opts]
    for key in ("shard_id", "num_shards"):
        value = getattr(arguments, key, None)
        if value is not None:
            overrides += [key.upper(), str(value)]
    return [load_config(file, overrides) for file in files]


def _train(config: Config, *, then_tests: bool = False, takeover: bool = False) -> None:
    from slowfast_mvit.jobs.train import train_job

    train_job(config, then_tests=then_tests, takeover=takeover)


def _test(config: Config, part: tuple[int, int] = (1, 1), *, takeover: bool = False) -> None:
    from slowfast_mvit.evaluation.records import Part
    from slowfast_mvit.jobs.test import test_job

    test_job(config, Part(*part), takeover=takeover)


def _merge(arguments: argparse.Namespace) -> None:
    _require_folders(*arguments.output_dir)
    from slowfast_mvit.jobs.test import merge_job

    merge_job(arguments.output_dir, takeover=arguments.takeover)


def _train_and_test(config: Config, *, takeover: bool = False) -> None:
    if not (config.train.enable or config.test.enable):
        raise ConfigError("nothing to do: TRAIN.ENABLE and TEST.ENABLE are both False")
    if config.train.enable:
        _train(config, then_tests=config.test.enable, takeover=takeover)
    if config.test.enable:
        _test(config, takeover=takeover)


def _predict(arguments: argparse.Namespace) -> int:
    from slowfast_mvit.jobs.prediction.command import PredictOptions, predict_job

    names = [item.name for item in fields(PredictOptions)]
    return predict_job(
        arguments.sources,
        PredictOptions(**{name: getattr(arguments, name) for name in names}),
        weights=arguments.weights,
        config_file=arguments.cfg,
        ema=arguments.ema,
        device=arguments.device,
    )


def _certify(arguments: argparse.Namespace) -> None:
    from slowfast_mvit.jobs.certify import certify_job

    certify_job(arguments.weights, arguments.data, arguments.out, arguments.overrides)


def _models(arguments: argparse.Namespace) -> None:
    from slowfast_mvit.jobs.models import models_job

    models_job(arguments.json)


def _require_folders(*paths: str) -> None:
    """Refuse local folders that do not exist, before torch is imported.

    Raises:
        ConfigError: names the first.
    """
    missing = [path for path in paths if "://" not in path and not Path(path).is_dir()]
    if missing:
        raise ConfigError(f"{missing[0]}: no such local folder. Give the OUTPUT_DIR of a run")


def _report(arguments: argparse.Namespace) -> None:
    _require_folders(arguments.output_dir)
    from slowfast_mvit.jobs.report import report_job

    report_job(arguments.output_dir)


def _watch(arguments: argparse.Namespace) -> None:
    _require_folders(arguments.output_dir)
    from slowfast_mvit.jobs.watch import watch_job

    watch_job(arguments.output_dir, once=arguments.once)


def _demo(arguments: argparse.Namespace) -> None:
    config = load_config(DEMO_CONFIG, arguments.overrides)

    from slowfast_mvit.demo.synthetic import write_motion_dataset
    from slowfast_mvit.runtime.log import setup_logging

    setup_logging()
    write_motion_dataset(Path(config.data.path_to_data_dir))
    if not arguments.data_only:
        _train_and_test(config)
