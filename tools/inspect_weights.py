"""What a weights file holds: `python tools/inspect_weights.py FILE [--summary]`.

Prints the family, the numbers of tensors and parameters, classes, the config that fits, and every tensor with its
shape and its name here.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from maskrcnn_benchmark.config import get_cfg
from maskrcnn_benchmark.engine.checkpointer import DetectronCheckpointer
from maskrcnn_benchmark.engine.keypoints import spec_of_checkpoint
from maskrcnn_benchmark.engine.run import friendly_errors
from maskrcnn_benchmark.modeling.state_dict_names import (
    WEIGHT_FAMILIES,
    Conventions,
    Converted,
    describe_config,
    recognise,
)
from maskrcnn_benchmark.utils.model_serialization import strip_wrappers

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@friendly_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print the description. Returns the exit status: 0, or 1 after an error."""
    args = parse_arguments(argv)
    content = DetectronCheckpointer(get_cfg(), nn.Module()).read(args.file)
    state = strip_wrappers(content.pop("model"))
    state = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    family = recognise(state)
    converted = Converted(dict(state)) if family is None else family.convert(state, Conventions())
    lines = summarize(args.file, state, family.name if family else "", content)
    keys = describe_config(converted)
    config = shipped_config(keys, family.name if family else "")
    lines += describe_classes(content, keys)
    lines += config_lines(keys, config, converted.notes)
    if not args.summary:
        lines += tensor_lines(state, converted)
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a weights file holds, and which config fits.")
    parser.add_argument("file", metavar="FILE", help="file, URL or catalog:// name of weights")
    parser.add_argument("--summary", action="store_true", help="do not list the tensors")
    return parser.parse_args(argv)


def summarize(path: str, state: Mapping[str, Tensor], family: str, content: Mapping[str, Any]) -> list[str]:
    """Lines on the file as a whole."""
    known = ", ".join(WEIGHT_FAMILIES)
    total = sum(tensor.numel() for tensor in state.values())
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in state.values()})
    lines = [
        f"file        {path}",
        f"family      {family or f'unknown; known are {known}'}",
        f"tensors     {len(state)} of {total:,} numbers, {', '.join(dtypes)}",
    ]
    return [*lines, f"also holds  {', '.join(map(str, content))}"] if content else lines


def describe_classes(content: Mapping[str, Any], keys: Mapping[str, Any]) -> list[str]:
    """Lines on the classes and the keypoints: their number, and their names if the file has them."""
    number = keys.get("MODEL.ROI_BOX_HEAD.NUM_CLASSES", keys.get("MODEL.RETINANET.NUM_CLASSES"))
    if number is None:
        return []
    categories = content.get("categories") or {}
    names = f": {', '.join(map(str, categories.values()))}" if categories else ""
    spec = spec_of_checkpoint(content)
    keypoints = [f"keypoints   {spec}"] if spec is not None else []
    return [f"classes     {number}, with the background{names}", *keypoints]


def config_lines(keys: Mapping[str, Any], config: str, notes: Sequence[str]) -> list[str]:
    """Lines on the config that fits, and on what a load converts."""
    lines = [f"converted   {note}" for note in notes]
    if not keys:
        return [*lines, "config      not known from the names"]
    lines.append(f"config      {config or 'none of the shipped ones is near'}, with")
    return [*lines, *(f"            {key} {value!r}" for key, value in keys.items())]


def shipped_config(keys: Mapping[str, Any], family: str) -> str:
    """The shipped config of the same kind of detector and body, with the conventions of the family if there is one.

    "" if there is none.
    """
    body = keys.get("MODEL.BACKBONE.CONV_BODY", "")
    kind = "keypoint" if keys.get("MODEL.KEYPOINT_ON") else "mask" if keys.get("MODEL.MASK_ON") else "faster"
    if body == "HRNET-HR":
        name = f"hrnet/{kind}_rcnn_hrnet_w{keys['MODEL.HRNET.STAGE4.NUM_CHANNELS'][0]}_1x.yaml"
    elif body.endswith("-RETINANET"):
        name = f"retinanet/retinanet_{body.removesuffix('-RETINANET')}_1x.yaml"
    else:
        groups, width = keys.get("MODEL.RESNETS.NUM_GROUPS", 1), keys.get("MODEL.RESNETS.WIDTH_PER_GROUP", 64)
        body = body.replace("R-", "X-").replace("-FPN", f"-{groups}x{width}d-FPN") if groups > 1 else body
        name = f"e2e_{kind}_rcnn_{body.replace('-', '_')}_1x.yaml"
    depth_and_neck = body.replace("-", "_")
    of_family = {
        "torchvision": f"torchvision/{kind}rcnn_{depth_and_neck.replace('R_', 'resnet').lower()}.yaml",
        "Detectron2": f"detectron2/{kind}_rcnn_{depth_and_neck}_3x.yaml",
    }
    candidates = [of_family[family], name] if family in of_family else [name]
    return next((f"configs/{name}" for name in candidates if (CONFIGS / name).is_file()), "")


def tensor_lines(state: Mapping[str, Tensor], converted: Converted) -> list[str]:
    """A line for every tensor of the file: its name, its shape, and its name here if that is another."""
    names = {source: name for name, source in converted.sources.items()}
    width = max(map(len, state), default=0)
    lines = ["tensors"]
    for source, tensor in state.items():
        here = names.get(source, source)
        note = f" -> {here}" if here != source else ""
        if source in converted.unknown or source in converted.ignored:
            note = " (unknown)" if source in converted.unknown else " (not needed)"
        lines.append(f"  {source.ljust(width)}  {'x'.join(map(str, tensor.shape)) or 'number'}{note}")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
