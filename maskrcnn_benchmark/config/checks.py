"""Settings that contradict each other, found when a config is read and not hours later.

Each check yields one line: what is set, why it cannot work, what to set instead. What only a built model knows (the
strides of a backbone of your own, say) is checked where it is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from maskrcnn_benchmark.utils.problems import ConfigError

from .node import CfgNode

_DEFAULT_OUT_CHANNELS = 1024  # of MODEL.BACKBONE; HRNET-HR does not read it, so only another number is worth a word
_CHOICES: dict[str, tuple[Any, ...]] = {
    "DTYPE": ("float32", "float16", "bfloat16"),
    "MODEL.BOX_OFFSET": (0, 1),
    "INPUT.FORMAT": ("", "RGB", "BGR", "RGB255", "BGR255"),
}
_RANGES: dict[str, tuple[float, float]] = {  # smallest and largest value that makes sense
    "MODEL.RPN.POSITIVE_FRACTION": (0, 1),
    "MODEL.RPN.NMS_THRESH": (0, 1),
    "INPUT.HORIZONTAL_FLIP_PROB_TRAIN": (0, 1),
    "INPUT.VERTICAL_FLIP_PROB_TRAIN": (0, 1),
    "INPUT.HUE": (0, 0.5),
    "INPUT.ALIGN_IMAGE_FACTOR": (0, float("inf")),
    "DATASETS.MIN_KEYPOINTS": (0, float("inf")),
    "DATALOADER.NUM_WORKERS": (0, float("inf")),
    "DATALOADER.SIZE_DIVISIBILITY": (0, float("inf")),
    "SOLVER.MAX_ITER": (0, float("inf")),
    "SOLVER.IMS_PER_BATCH": (1, float("inf")),
    "SOLVER.ACCUMULATE": (1, float("inf")),
    "SOLVER.BASE_LR": (0, float("inf")),
    "SOLVER.WARMUP_ITERS": (0, float("inf")),
    "SOLVER.CHECKPOINT_PERIOD": (0, float("inf")),
    "SOLVER.KEEP_LAST": (0, float("inf")),
    "SOLVER.TEST_PERIOD": (0, float("inf")),
    "SOLVER.LOG_PERIOD": (1, float("inf")),
    "TEST.IMS_PER_BATCH": (1, float("inf")),
    "TEST.PICTURES": (0, float("inf")),
}


def check_config(cfg: CfgNode, *checks: Callable[[CfgNode], Iterable[str]]) -> None:
    """Check what crosses sections, and what `checks` look at.

    Args:
        checks: functions that return the problems of a config, such as
            `maskrcnn_benchmark.modeling.detector.find_config_problems`.
    Raises: ConfigError with all problems, one per line.
    """
    problems = [
        *_check_choices(cfg),
        *_check_ranges(cfg),
        *_check_images(cfg),
        *_check_hrnet(cfg),
        *_check_rpn(cfg),
        *_check_matching(cfg),
        *_check_pooled_levels(cfg),
        *_check_refine_head(cfg),
    ]
    for check in checks:
        problems += [problem for problem in check(cfg) if problem not in problems]
    if problems:
        raise ConfigError("\n".join(problems))


def _value(cfg: CfgNode, key: str) -> Any:
    node: Any = cfg
    for name in key.split("."):
        node = node[name]
    return node


def _check_choices(cfg: CfgNode) -> Iterator[str]:
    for key, choices in _CHOICES.items():
        if _value(cfg, key) not in choices:
            yield f"{key} is {_value(cfg, key)!r}; expected one of {', '.join(map(repr, choices))}."


def _check_ranges(cfg: CfgNode) -> Iterator[str]:
    for key, (smallest, largest) in _RANGES.items():
        value = _value(cfg, key)
        if not smallest <= value <= largest:
            limits = f"at least {smallest}" if largest == float("inf") else f"between {smallest} and {largest}"
            yield f"{key} is {value}; expected {limits}."


def _check_images(cfg: CfgNode) -> Iterator[str]:
    node = cfg.INPUT
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        if len(node[key]) != 3:
            yield f"INPUT.{key} is {node[key]}; expected three numbers, one per colour channel."
    if 0 in node.PIXEL_STD:
        yield f"INPUT.PIXEL_STD is {node.PIXEL_STD}; images are divided by it, so none of its numbers can be 0."
    if not node.MIN_SIZE_TRAIN:
        yield "INPUT.MIN_SIZE_TRAIN is empty; expected at least one length of the shorter side, such as (800,)."
    longest = node.MAX_SIZE_TRAIN
    if isinstance(longest, tuple) and len(longest) not in (1, len(node.MIN_SIZE_TRAIN)):
        yield (
            f"INPUT.MAX_SIZE_TRAIN is {longest} beside INPUT.MIN_SIZE_TRAIN {node.MIN_SIZE_TRAIN}; expected one cap "
            "for all, or one for each length of the shorter side."
        )


def _check_hrnet(cfg: CfgNode) -> Iterator[str]:
    if cfg.MODEL.BACKBONE.CONV_BODY not in ("HRNET", "HRNET-HR"):
        return
    node = cfg.MODEL.HRNET
    for branches in (2, 3, 4):
        stage = node[f"STAGE{branches}"]
        for key in ("NUM_BLOCKS", "NUM_CHANNELS"):
            if len(stage[key]) != branches:
                yield (
                    f"MODEL.HRNET.STAGE{branches}.{key} is {stage[key]}; expected {branches} numbers, one for each of "
                    "the stage's branches."
                )
    if cfg.MODEL.BACKBONE.CONV_BODY != "HRNET-HR":
        return
    expansion = 4 if node.STAGE4.BLOCK.startswith("Bottleneck") else 1
    given, neck = [expansion * width for width in node.STAGE4.NUM_CHANNELS], cfg.MODEL.NECK
    if list(neck.IN_CHANNELS) != given:
        yield (
            f"MODEL.NECK.IN_CHANNELS is {tuple(neck.IN_CHANNELS)}, the body's branches have {tuple(given)} channels "
            "(MODEL.HRNET.STAGE4.NUM_CHANNELS, four times that for bottlenecks); set the former to the latter."
        )
    if cfg.MODEL.BACKBONE.OUT_CHANNELS not in (_DEFAULT_OUT_CHANNELS, neck.OUT_CHANNELS):
        yield (
            f"MODEL.BACKBONE.OUT_CHANNELS is {cfg.MODEL.BACKBONE.OUT_CHANNELS}, MODEL.NECK.OUT_CHANNELS "
            f"{neck.OUT_CHANNELS}; the neck's output is what the heads receive: set both to the same number."
        )


def _levels(cfg: CfgNode) -> tuple[int, ...] | None:
    """Strides of the maps that a known CONV_BODY gives; None for a body of the user's own."""
    body = cfg.MODEL.BACKBONE.CONV_BODY
    if body in ("R-50-C4", "R-101-C4"):
        return (16,)
    if body in ("R-50-C5", "R-101-C5"):
        return (16,) if cfg.MODEL.RESNETS.RES5_DILATION > 1 else (32,)
    if body in ("R-50-FPN", "R-101-FPN", "R-152-FPN"):
        return (4, 8, 16, 32, 64)
    if body == "HRNET-HR":
        return tuple(4 * 2**level for level in range(cfg.MODEL.NECK.NUM_OUTS))
    return None


def _check_rpn(cfg: CfgNode) -> Iterator[str]:
    if cfg.MODEL.RETINANET_ON:
        return
    node, levels = cfg.MODEL.RPN, _levels(cfg)
    strides = tuple(node.ANCHOR_STRIDE)
    if node.USE_FPN and len(strides) != len(node.ANCHOR_SIZES):
        yield (
            f"MODEL.RPN.ANCHOR_SIZES has {len(node.ANCHOR_SIZES)} entries, MODEL.RPN.ANCHOR_STRIDE {len(strides)}; "
            "with MODEL.RPN.USE_FPN each level has a stride and a size."
        )
    elif not node.USE_FPN and len(strides) != 1:
        yield (
            f"MODEL.RPN.ANCHOR_STRIDE is {strides}, and MODEL.RPN.USE_FPN is False: anchors would lie on one level "
            "only; set USE_FPN to True, or name one stride."
        )
    elif levels is not None and strides != levels:
        yield (
            f"MODEL.RPN.ANCHOR_STRIDE is {strides}, the levels of {cfg.MODEL.BACKBONE.CONV_BODY} have the strides "
            f"{levels}; set it to these (with MODEL.RPN.USE_FPN {len(levels) > 1})."
        )


def _check_matching(cfg: CfgNode) -> Iterator[str]:
    for section in ("RPN",):
        node = cfg.MODEL[section]
        if node.BG_IOU_THRESHOLD > node.FG_IOU_THRESHOLD:
            yield (
                f"MODEL.{section}.BG_IOU_THRESHOLD is {node.BG_IOU_THRESHOLD}, above FG_IOU_THRESHOLD "
                f"{node.FG_IOU_THRESHOLD}: overlaps between them would be both; lower the former."
            )


def _check_scales(cfg: CfgNode, section: str) -> Iterator[str]:
    scales: Sequence[float] = tuple(cfg.MODEL[section].POOLER_SCALES)
    if (
        not scales
        or scales[0] <= 0
        or any(coarse * 2 != fine for fine, coarse in zip(scales, scales[1:], strict=False))
    ):
        yield (
            f"MODEL.{section}.POOLER_SCALES is {scales}; expected 1 / stride of successive levels, finest first, each "
            "half the one before, such as (0.25, 0.125, 0.0625, 0.03125)."
        )
    elif (levels := _levels(cfg)) and scales != tuple(1 / stride for stride in levels)[: len(scales)]:
        yield (
            f"MODEL.{section}.POOLER_SCALES is {scales}, the levels of {cfg.MODEL.BACKBONE.CONV_BODY} have the strides "
            f"{levels}; expected 1 / stride of the first of them."
        )


def _check_pooled_levels(cfg: CfgNode) -> Iterator[str]:
    model = cfg.MODEL
    if model.RPN_ONLY:
        return
    yield from _check_scales(cfg, "ROI_BOX_HEAD")
    for section, is_on in (("ROI_MASK_HEAD", model.MASK_ON), ("ROI_KEYPOINT_HEAD", model.KEYPOINT_ON)):
        if is_on and not model[section].SHARE_BOX_FEATURE_EXTRACTOR:
            yield from _check_scales(cfg, section)
    if model.REFINE_ON:
        yield from _check_scales(cfg, "ROI_REFINE_HEAD")


def _check_refine_head(cfg: CfgNode) -> Iterator[str]:
    if cfg.MODEL.ROI_REFINE_HEAD.FREEZE_DETECTOR and not cfg.MODEL.REFINE_ON:
        yield (
            "MODEL.ROI_REFINE_HEAD.FREEZE_DETECTOR is True, but MODEL.REFINE_ON is False: nothing would learn; set "
            "REFINE_ON to True, or FREEZE_DETECTOR to False."
        )
    if cfg.MODEL.REFINE_ON and cfg.MODEL.RPN_ONLY:
        yield "MODEL.REFINE_ON and MODEL.RPN_ONLY are True: without RoI heads nothing can be refined; switch one off."
