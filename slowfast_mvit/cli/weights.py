"""Arguments of ``slowfast-mvit weights``."""

from __future__ import annotations

import argparse

from slowfast_mvit.cli.flags import add_trust_argument

EXAMPLES = """examples:
  slowfast-mvit weights inspect FILE --json
  slowfast-mvit weights convert FILE OUT.pyth              for PySlowFast
  slowfast-mvit weights convert FILE OUT.safetensors --ema
  slowfast-mvit weights convert FILE OUT/ --cfg CONFIG --class-names FILE
                                                           a complete model, as in a hub
  slowfast-mvit weights convert FILE OUT.pth --to timm     or --to torchvision; --overwrite
"""


def add_weights_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``slowfast-mvit weights``."""
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = commands.add_parser(
        "inspect",
        help="describe a weights file",
        description="Describe a weights file: its source, its model, and its other content. No "
        "model and no config are needed.",
    )
    command.add_argument("file", help="a file, a folder with model.safetensors, or an address")
    command.add_argument("--json", action="store_true", help="print it as JSON")
    command.set_defaults(command=_inspect)

    command = commands.add_parser(
        "convert",
        help="write weights for PySlowFast, a hub, torchvision or timm",
        description="Write weights as a PySlowFast checkpoint (.pyth, .pth, .pt), as .safetensors, "
        "or as a folder with model.safetensors and config.json, which is a complete model.",
    )
    command.add_argument("file", help="a file, a folder with model.safetensors, or an address")
    command.add_argument("out", help="file to write, by its suffix; without a suffix, a folder")
    command.add_argument(
        "--to",
        default="slowfast",
        choices=("slowfast", "torchvision", "timm"),
        help="layout of the names (default: slowfast, which is ours)",
    )
    command.add_argument("--ema", action="store_true", help="load the moving average")
    command.add_argument("--cfg", help="the config of the weights, if the file has none")
    command.add_argument(
        "--class-names", metavar="FILE", help="names of the classes: one a line, or JSON"
    )
    command.add_argument("--overwrite", action="store_true", help="replace an existing file")
    add_trust_argument(command)
    command.set_defaults(command=_convert)


def _inspect(arguments: argparse.Namespace) -> None:
    from slowfast_mvit.jobs.weights import inspect_job

    inspect_job(arguments.file, arguments.json)


def _convert(arguments: argparse.Namespace) -> None:
    from slowfast_mvit.annotations.class_names import read_class_names
    from slowfast_mvit.config import load_config
    from slowfast_mvit.jobs.weights import convert
    from slowfast_mvit.storage import local_copy

    names = arguments.class_names
    converted = convert(
        arguments.file,
        arguments.out,
        layout=arguments.to,
        ema=arguments.ema,
        config=load_config(arguments.cfg) if arguments.cfg else None,
        class_names=names and read_class_names(local_copy(names)),
        overwrite=arguments.overwrite,
    )
    print(f"wrote {arguments.out}: {converted.num_tensors} tensors from {converted.source} names")
    if converted.left_out:
        print(f"  left out {len(converted.left_out)}, the first {converted.left_out[0]}")
    described = converted.description
    if described is None:
        print("  unknown model: its names were changed, and its shapes not compared")
    elif converted.kind == "folder" and described.input_spec is None:
        print("  without an input spec, so predict will ask for --cfg")
