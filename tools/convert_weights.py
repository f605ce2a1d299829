"""Write weights in another project's format: `python tools/convert_weights.py IN OUT [--to FAMILY]`.

IN is a file of any family that the package reads, see docs/WEIGHTS.md. OUT is a `.pth` or `.safetensors` file, or for
Detectron2 a `.pkl`. For weights trained here, the config.yml in the folder of IN says the conventions of the model.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maskrcnn_benchmark.config import get_cfg, load_config
from maskrcnn_benchmark.engine.checkpointer import DetectronCheckpointer
from maskrcnn_benchmark.engine.run import StartupError, friendly_errors
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.modeling.state_dict_names import (
    EXPORT_FAMILIES,
    Conventions,
    Exported,
    UnsupportedExportError,
    conventions_of,
    convert_file,
)
from maskrcnn_benchmark.utils.checkpoint import DESCRIPTIONS, replacing_file
from maskrcnn_benchmark.utils.safetensors_file import write_safetensors


@friendly_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Convert a file and print what was done. Returns the exit status: 0, or 1 after an error."""
    args = parse_arguments(argv)
    check_output(args.output, args.to)
    config_file = args.config_file or config_beside(args.input)
    model = conventions_of_config(config_file) if config_file else None
    content = DetectronCheckpointer(get_cfg(), nn.Module()).read(args.input)
    try:
        exported = convert_file(content.pop("model"), args.to, model)
    except UnsupportedExportError as error:
        raise StartupError(f"{args.input} cannot be converted to {args.to}: {error}") from error
    write(args.output, args.to, exported, content)
    print(f"{args.input}: weights of {exported.source}")
    if config_file:
        print(f"conventions of the model: {config_file}")
    for note in exported.notes:
        print(f"- {note}")
    if exported.left_out:
        print(f"- left out, without a name in the other format: {', '.join(exported.left_out)}")
    print(f"{args.output}: {len(exported.weights)} tensors in the format of {args.to}")
    print(f"images: {describe_images(exported.conventions)}")
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write weights in the format of another project.")
    parser.add_argument("input", metavar="IN", help="file, URL or catalog:// name of weights")
    parser.add_argument("output", metavar="OUT", help=".pth or .safetensors file to write; for Detectron2 also .pkl")
    parser.add_argument("--to", choices=EXPORT_FAMILIES, default="maskrcnn_benchmark", help="default: %(default)s")
    parser.add_argument(
        "--config-file", default="", metavar="FILE", help="config of the model of IN (default: config.yml beside IN)"
    )
    return parser.parse_args(argv)


def check_output(path: str, to: str) -> None:
    """Refuse a file format that cannot be written, before anything is read."""
    endings = (".pth", ".safetensors", ".pkl") if to == "detectron2" else (".pth", ".safetensors")
    if not path.endswith(endings):
        raise StartupError(f"OUT is {path}; {to} weights are written as {' or '.join(endings)}.")


def config_beside(path: str) -> str:
    """The config that a training saved in the folder of a checkpoint; "" if there is none."""
    config = Path(path).parent / "config.yml"
    return str(config) if config.is_file() else ""


def conventions_of_config(config_file: str) -> Conventions:
    cfg = load_config(config_file)
    with torch.device("meta"):
        return conventions_of(build_detection_model(cfg), cfg)


def write(path: str, to: str, exported: Exported, content: dict[str, Any]) -> None:
    """Write the file in the layout that its project reads; a `.safetensors` file has the weights alone."""
    weights: Any = exported.weights
    if path.endswith(".safetensors"):
        with replacing_file(path) as file:
            write_safetensors(file, weights)
        return
    if to == "detectron2":
        if path.endswith(".pkl"):
            weights = {name: tensor.numpy() for name, tensor in weights.items()}
        layout: Any = {"model": weights, "__author__": "maskrcnn_benchmark"}
    elif to == "maskrcnn_benchmark":
        layout = {"model": weights} | {key: content[key] for key in DESCRIPTIONS if key in content}
    else:
        layout = weights
    with replacing_file(path) as file:
        if path.endswith(".pkl"):
            pickle.dump(layout, file, protocol=4)
        else:
            torch.save(layout, file)


def describe_images(conventions: Conventions) -> str:
    """One line for the settings of the other project."""
    if conventions.pixel_order is None:
        return "unknown, as in the config of the training"
    text = conventions.pixel_order
    if conventions.pixel_std is not None:
        text += f", divided by {', '.join(f'{std:.5g}' for std in conventions.pixel_std)} (pixels from 0 to 255)"
    return text


if __name__ == "__main__":
    raise SystemExit(main())
