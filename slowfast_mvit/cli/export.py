"""Arguments of ``slowfast-mvit export``."""

from __future__ import annotations

import argparse
import inspect

from slowfast_mvit.cli.flags import add_trust_argument


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Write a model as a file that runs without this package, and check it against the model.

      slowfast-mvit export runs/k400 --to onnx --out exported/k400

    DIR gets the file, contract.json (its input, output, preprocessing, labels, hash), check.json
    (differences from the model and latency) and, with ONNX, predict_onnx.py, an example.
    """
    parser.description = inspect.getdoc(add_export_arguments)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    weights = "a checkpoint, a run folder, a name of slowfast-mvit models, or an https address"
    parser.add_argument("weights", metavar="W", help=weights)
    parser.add_argument(
        "--to", required=True, choices=("onnx", "pt2"), help="ONNX, or torch.export's archive"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    parser.add_argument(
        "--precision", default="fp32", choices=("fp32", "fp16"), help="of the graph (default: fp32)"
    )
    text = "take uint8 frames (B, T, S, S, 3) of crop size, and return probabilities"
    parser.add_argument("--with-preprocessing", action="store_true", help=text)
    text = "axes of any length: batch, the default, is the only one possible"
    parser.add_argument("--dynamic", nargs="+", default=["batch"], metavar="AXIS", help=text)
    text = "videos for the check (default: five that the demo renders)"
    parser.add_argument("--videos", nargs="+", default=[], metavar="VIDEO", help=text)
    text = "the config of the weights, if the checkpoint has none"
    parser.add_argument("--cfg", dest="config_file", metavar="FILE", help=text)
    parser.add_argument("--ema", action="store_true", help="load the moving average in it")
    parser.add_argument("--overwrite", action="store_true", help="replace an export in DIR")
    add_trust_argument(parser)
    parser.set_defaults(command=_export)


def _export(arguments: argparse.Namespace) -> None:
    from slowfast_mvit.jobs.export import export_job

    names = inspect.signature(export_job).parameters
    export_job(**{name: getattr(arguments, name) for name in names})
