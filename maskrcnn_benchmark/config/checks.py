"""Settings that contradict each other, found when a config is read and not hours later.

Each check yields one line: what is set, why it cannot work, what to set instead. What only a built model knows (the
strides of a backbone of your own, say) is checked where it is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from maskrcnn_benchmark.utils.problems import ConfigError

from .node import CfgNode

_DECODERS = ("bicubic", "argmax", "quarter", "dark")
_DEFAULT_OUT_CHANNELS = 1024  # of MODEL.BACKBONE; HRNET-HR does not read it, so only another number is worth a word
_COCO_KEYPOINTS = 17  # which have known sigmas
_CHOICES: dict[str, tuple[Any, ...]] = {
    "DTYPE": ("float32", "float16", "bfloat16"),
    "MODEL.BOX_OFFSET": (0, 1),
    "MODEL.ROI_REFINE_HEAD.INDICATOR_FORM": ("probability", "logit", "features"),
    "MODEL.ROI_REFINE_HEAD.DECODE": _DECODERS,
    "MODEL.ROI_KEYPOINT_HEAD.DECODE": _DECODERS,
    "INPUT.FORMAT": ("", "RGB", "BGR", "RGB255", "BGR255"),
}
_RANGES: dict[str, tuple[float, float]] = {  # smallest and largest value that makes sense
    "MODEL.RPN.POSITIVE_FRACTION": (0, 1),
    "MODEL.RPN.NMS_THRESH": (0, 1),
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": (0, 1),
    "MODEL.ROI_HEADS.NMS": (0, 1),
    "MODEL.ROI_HEADS.DETECTIONS_PER_IMG": (-1, float("inf")),
    "MODEL.ROI_BOX_HEAD.NUM_CLASSES": (2, float("inf")),
    "MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES": (1, float("inf")),
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
        *_check_box_head(cfg),
        *_check_mask_head(cfg),
        *_check_keypoint_head(cfg),
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
    sigmas, keypoints = cfg.TEST.KEYPOINT_OKS_SIGMAS, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES
    if cfg.MODEL.KEYPOINT_ON and sigmas and len(sigmas) != keypoints:
        yield (
            f"TEST.KEYPOINT_OKS_SIGMAS has {len(sigmas)} numbers, MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES is {keypoints}; "
            "expected a number for each keypoint."
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
    for section in ("RPN", "ROI_HEADS"):
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


def _check_box_head(cfg: CfgNode) -> Iterator[str]:
    if not cfg.MODEL.RPN_ONLY:
        yield from _check_scales(cfg, "ROI_BOX_HEAD")


def _shares_vectors(cfg: CfgNode, section: str) -> bool:
    """Is a head that needs maps to reuse features that the box head has flattened?"""
    flattening = ("FPN2MLPFeatureExtractor", "FPNXconv1fcFeatureExtractor")
    return cfg.MODEL[section].SHARE_BOX_FEATURE_EXTRACTOR and cfg.MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR in flattening


def _sharing_problem(cfg: CfgNode, section: str) -> str:
    return (
        f"MODEL.{section}.SHARE_BOX_FEATURE_EXTRACTOR is True, but {cfg.MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR} ends in "
        "vectors and the head needs maps; set it to False, as every model with a feature pyramid does."
    )


def _side_of_features(cfg: CfgNode, section: str) -> int | None:
    """Cells per side behind the feature extractor of a head; None where it is not known here."""
    node = cfg.MODEL["ROI_BOX_HEAD"] if cfg.MODEL[section].SHARE_BOX_FEATURE_EXTRACTOR else cfg.MODEL[section]
    if node.FEATURE_EXTRACTOR in ("MaskRCNNFPNFeatureExtractor", "KeypointRCNNFeatureExtractor"):
        return node.POOLER_RESOLUTION
    if node.FEATURE_EXTRACTOR == "ResNet50Conv5ROIFeatureExtractor":
        dilated = cfg.MODEL.RESNETS.RES5_DILATION > 1
        return node.POOLER_RESOLUTION if dilated else (node.POOLER_RESOLUTION + 1) // 2
    return None


def _check_resolution(cfg: CfgNode, section: str, factors: dict[str, int]) -> Iterator[str]:
    """Does RESOLUTION equal what the predictor yields? `factors`: predictor -> cells out per cell in, along a side."""
    node = cfg.MODEL[section]
    side, factor = _side_of_features(cfg, section), factors.get(node.PREDICTOR)
    if side is None or factor is None:
        return
    given, yielded = node.RESOLUTION, side * factor
    if given != yielded:
        yield (
            f"MODEL.{section}.RESOLUTION is {given}, but {node.PREDICTOR} turns {side} cells per side into {yielded}; "
            f"set RESOLUTION to {yielded}, or change POOLER_RESOLUTION."
        )


def _check_mask_head(cfg: CfgNode) -> Iterator[str]:
    if not cfg.MODEL.MASK_ON or cfg.MODEL.RPN_ONLY:
        return
    if _shares_vectors(cfg, "ROI_MASK_HEAD"):
        yield _sharing_problem(cfg, "ROI_MASK_HEAD")
        return
    if not cfg.MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR:
        yield from _check_scales(cfg, "ROI_MASK_HEAD")
    yield from _check_resolution(cfg, "ROI_MASK_HEAD", {"MaskRCNNC4Predictor": 2, "MaskRCNNConv1x1Predictor": 1})


def _check_rescoring(cfg: CfgNode, section: str) -> Iterator[str]:
    """Expected OKS needs a sigma for each keypoint; only those of COCO's keypoints are known."""
    count = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES
    if cfg.MODEL[section].RESCORE and not cfg.TEST.KEYPOINT_OKS_SIGMAS and count != _COCO_KEYPOINTS:
        yield (
            f"MODEL.{section}.RESCORE is True, but TEST.KEYPOINT_OKS_SIGMAS is empty, which means COCO's "
            f"{_COCO_KEYPOINTS}, and MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES is {count}; list a sigma for each keypoint "
            "(COCO's lie between 0.025 for eyes and 0.107 for hips), or set RESCORE to False."
        )


def _check_keypoint_head(cfg: CfgNode) -> Iterator[str]:
    if not cfg.MODEL.KEYPOINT_ON or cfg.MODEL.RPN_ONLY:
        return
    yield from _check_rescoring(cfg, "ROI_KEYPOINT_HEAD")
    if _shares_vectors(cfg, "ROI_KEYPOINT_HEAD"):
        yield _sharing_problem(cfg, "ROI_KEYPOINT_HEAD")
        return
    if not cfg.MODEL.ROI_KEYPOINT_HEAD.SHARE_BOX_FEATURE_EXTRACTOR:
        yield from _check_scales(cfg, "ROI_KEYPOINT_HEAD")
    yield from _check_resolution(cfg, "ROI_KEYPOINT_HEAD", {"KeypointRCNNPredictor": 4})


def _check_refine_head(cfg: CfgNode) -> Iterator[str]:
    if not cfg.MODEL.REFINE_ON:
        if cfg.MODEL.ROI_REFINE_HEAD.FREEZE_DETECTOR:
            yield (
                "MODEL.ROI_REFINE_HEAD.FREEZE_DETECTOR is True, but MODEL.REFINE_ON is False: nothing would learn; set "
                "REFINE_ON to True, or FREEZE_DETECTOR to False."
            )
        return
    if cfg.MODEL.RPN_ONLY:
        yield "MODEL.REFINE_ON and MODEL.RPN_ONLY are True: without RoI heads nothing can be refined; switch one off."
        return
    branches = {"mask": cfg.MODEL.MASK_ON, "keypoint": cfg.MODEL.KEYPOINT_ON}
    if not any(branches.values()):
        yield (
            "MODEL.REFINE_ON is True, but MODEL.MASK_ON and MODEL.KEYPOINT_ON are False: there is nothing to refine; "
            "switch a branch on, or REFINE_ON off."
        )
        return
    node = cfg.MODEL.ROI_REFINE_HEAD
    if not node.OUTPUTS:
        yield 'MODEL.ROI_REFINE_HEAD.OUTPUTS is empty; expected "mask", "keypoint" or both.'
    for key in ("INDICATORS", "OUTPUTS"):
        for name in node[key]:
            if name not in branches:
                yield f"MODEL.ROI_REFINE_HEAD.{key} has {name!r}; expected 'mask' or 'keypoint'."
            elif not branches[name]:
                others = tuple(other for other in node[key] if other != name)
                yield (
                    f"MODEL.ROI_REFINE_HEAD.{key} has {name!r}, but MODEL.{name.upper()}_ON is False, so there is no "
                    f"such branch; switch it on, or set {key} to {others!r}."
                )
        if len(set(node[key])) != len(node[key]):
            yield f"MODEL.ROI_REFINE_HEAD.{key} is {node[key]}: it names a branch twice; name each once."
    if cfg.MODEL.KEYPOINT_ON and "keypoint" in node.OUTPUTS:
        yield from _check_rescoring(cfg, "ROI_REFINE_HEAD")
    if node.ROI_EXPAND < 1:
        yield f"MODEL.ROI_REFINE_HEAD.ROI_EXPAND is {node.ROI_EXPAND}; the region can only grow: expected 1 or more."
    if node.OUTLINE_WEIGHT < 0:
        yield (
            f"MODEL.ROI_REFINE_HEAD.OUTLINE_WEIGHT is {node.OUTLINE_WEIGHT}; expected 0, for cells that weigh the "
            "same, or more."
        )
    for key in ("NUM_STACKS", "POOLER_RESOLUTION", "CONV_DIM"):
        if node[key] < 1:
            yield f"MODEL.ROI_REFINE_HEAD.{key} is {node[key]}; expected 1 or more."
    yield from _check_scales(cfg, "ROI_REFINE_HEAD")
