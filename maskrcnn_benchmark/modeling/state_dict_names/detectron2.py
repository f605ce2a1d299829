"""Files of Detectron2: `.pth` checkpoints and the `.pkl` files of its model zoo, detectors and ImageNet bodies."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from .class_rows import (
    add_background,
    background_first,
    background_last,
    convert_rows,
    drop_background,
    ratios_outside,
    sizes_outside,
)
from .family import Conventions, Converted, NameTable, UnsupportedExportError, WeightFamily

_EPS = 1e-5  # of Detectron2's batch norms, also the frozen ones
_MOST_BLOCKS = 36  # in a stage: of ResNet-152
_LAST_STAGE_OF_C4 = "roi_heads.box.feature_extractor.head.layer4"
_BODIES = {"backbone.bottom_up.": "backbone.body.", "backbone.": "backbone.body.", "": ""}  # with FPN, without, bare
_BUFFERS = re.compile(r"^pixel_(mean|std)$|(^|\.)anchor_generator\.")
_BOX, _MASK = "roi_heads.box.predictor", "roi_heads.mask.predictor"


def _block_modules(theirs: str, ours: str) -> dict[str, str]:
    pairs = {f"{theirs}.shortcut": f"{ours}.downsample.0", f"{theirs}.shortcut.norm": f"{ours}.downsample.1"}
    for number in (1, 2, 3):
        pairs |= {f"{theirs}.conv{number}": f"{ours}.conv{number}", f"{theirs}.conv{number}.norm": f"{ours}.bn{number}"}
    return {**pairs, f"{theirs}.conv2_offset": f"{ours}.conv2.offset"}


def _body_modules(theirs: str, ours: str) -> dict[str, str]:
    pairs = {f"{theirs}stem.conv1": f"{ours}stem.conv1", f"{theirs}stem.conv1.norm": f"{ours}stem.bn1"}
    for stage in (2, 3, 4, 5):
        for block in range(_MOST_BLOCKS):
            pairs |= _block_modules(f"{theirs}res{stage}.{block}", f"{ours}layer{stage - 1}.{block}")
    return pairs


def _with_norm(theirs: str, ours: str) -> dict[str, str]:
    return {theirs: ours, f"{theirs}.norm": f"{ours}.1"}


def _head_modules() -> dict[str, str]:
    pairs: dict[str, str] = {}
    for level in range(1, 5):
        pairs |= _with_norm(f"backbone.fpn_lateral{level + 1}", f"backbone.fpn.fpn_inner{level}")
        pairs |= _with_norm(f"backbone.fpn_output{level + 1}", f"backbone.fpn.fpn_layer{level}")
        pairs |= _with_norm(f"roi_heads.mask_head.mask_fcn{level}", f"roi_heads.mask.feature_extractor.mask_fcn{level}")
        pairs |= _xconv_modules(level)
    pairs |= {f"backbone.top_block.{name}": f"backbone.fpn.top_blocks.{name}" for name in ("p6", "p7")}
    pairs |= {
        "proposal_generator.rpn_head.conv": "rpn.head.conv",
        "proposal_generator.rpn_head.objectness_logits": "rpn.head.cls_logits",
        "proposal_generator.rpn_head.anchor_deltas": "rpn.head.bbox_pred",
        "roi_heads.box_head.fc1": "roi_heads.box.feature_extractor.fc6",
        "roi_heads.box_head.fc2": "roi_heads.box.feature_extractor.fc7",
        "roi_heads.box_predictor.cls_score": f"{_BOX}.cls_score",
        "roi_heads.box_predictor.bbox_pred": f"{_BOX}.bbox_pred",
        "roi_heads.mask_head.deconv": f"{_MASK}.conv5_mask",
        "roi_heads.mask_head.predictor": f"{_MASK}.mask_fcn_logits",
        "roi_heads.keypoint_head.score_lowres": "roi_heads.keypoint.predictor.kps_score_lowres",
    }
    for number in range(1, 9):
        name = f"conv_fcn{number}"
        pairs[f"roi_heads.keypoint_head.{name}"] = f"roi_heads.keypoint.feature_extractor.{name}"
    return pairs


def _xconv_modules(number: int) -> dict[str, str]:
    """Convolutions of the box head with group norm: convolution, norm and ReLU have an index each."""
    theirs, index = f"roi_heads.box_head.conv{number}", 3 * (number - 1)
    ours = "roi_heads.box.feature_extractor.xconvs"
    return {theirs: f"{ours}.{index}", f"{theirs}.norm": f"{ours}.{index + 1}"}


def _retinanet_modules() -> dict[str, str]:
    pairs = {"head.cls_score": "rpn.head.cls_logits", "head.bbox_pred": "rpn.head.bbox_pred"}
    for index in (0, 2, 4, 6):  # a ReLU is between two convolutions
        pairs |= {f"head.{name}_subnet.{index}": f"rpn.head.{name}_tower.{index}" for name in ("cls", "bbox")}
    return pairs


def _last_stage_modules(ours: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for block in range(3):
        pairs |= _block_modules(f"roi_heads.res5.{block}", f"{ours}.{block}")
    return pairs


def _tables() -> dict[str, NameTable]:
    """One for each kind of body. On the way in, the last stage of C4 models is placed by the rules of loading."""
    shared = {**_head_modules(), **_last_stage_modules("layer4")}
    return {theirs: NameTable({**_body_modules(theirs, ours), **shared}) for theirs, ours in _BODIES.items()}


_TABLES = _tables()
_RETINANET = NameTable(
    {**_body_modules("backbone.bottom_up.", "backbone.body."), **_head_modules(), **_retinanet_modules()}
)
_C4 = NameTable(
    {**_body_modules("backbone.", "backbone.body."), **_head_modules(), **_last_stage_modules(_LAST_STAGE_OF_C4)}
)
_FPN = _TABLES["backbone.bottom_up."]


class Detectron2(WeightFamily):
    """The background is the last class, box deltas and masks have no rows for it, and anchors are counted otherwise."""

    name = "Detectron2"
    conventions = Conventions(norm_eps=_EPS)  # its config says the order of the channels
    signature = re.compile(
        r"^(backbone\.(bottom_up|stem|res[2-5]|fpn_(lateral|output)\d)\.|proposal_generator\.|roi_heads\.box_head\.(fc1|conv1)\."
        r"|res[2-5]\.\d+\.conv\d|head\.(cls|bbox)_subnet\.)"
    )

    def knows(self, name: str) -> bool:
        tables = (*_TABLES.values(), _RETINANET)
        return _BUFFERS.search(name) is not None or any(table.ours(name, {}) is not None for table in tables)

    def convert(self, state: Mapping[str, Tensor], model: Conventions) -> Converted:
        converted = Converted(conventions=_conventions(state))
        table = _table_of(state)
        for source, tensor in state.items():
            if _BUFFERS.search(source):
                converted.ignored.append(source)
                continue
            name = table.ours(source, state)
            if name is not None and f"{source.removesuffix('.weight')}_offset.weight" in state:
                name = name.replace(".conv2.", ".conv2.conv.")
            converted.add(name, source, tensor)
        _add_missing_statistics(converted.weights)
        _convert_classes(converted)
        _convert_anchors(converted.weights, model, ratios_outside)
        if "pixel_mean" not in state:
            converted.notes.append(
                "the file does not say the order of its channels; BGR is assumed, Detectron2's default. If it was "
                "trained with INPUT.FORMAT RGB, set MODEL.WEIGHT_FORMAT to RGB"
            )
        return converted

    def export(self, state: Mapping[str, Tensor], model: Conventions) -> dict[str, Tensor]:
        weights = {name: tensor for name, tensor in state.items() if ".anchor_generator." not in name}
        for ending in ("weight", "bias"):
            convert_rows(weights, f"{_BOX}.cls_score.{ending}", background_last)
            convert_rows(weights, f"{_BOX}.bbox_pred.{ending}", partial(drop_background, count=4))
            convert_rows(weights, f"{_MASK}.mask_fcn_logits.{ending}", partial(drop_background, count=1))
        _convert_anchors(weights, model, sizes_outside)
        table = _export_table(weights)
        exported = {}
        for name, tensor in weights.items():
            if name.endswith(".num_batches_tracked") or name.startswith("roi_heads.mask.feature_extractor.head."):
                continue  # Detectron2 has one last stage for boxes and masks
            theirs = table.theirs(name.replace(".conv2.conv.", ".conv2."))
            if theirs is None:
                raise UnsupportedExportError(f"Detectron2's models have no tensor for {name}.")
            exported[theirs] = tensor
        return exported


def _table_of(state: Mapping[str, Tensor]) -> NameTable:
    if any(name.startswith("head.") for name in state):
        return _RETINANET
    prefix = next(prefix for prefix in _BODIES if not prefix or any(_is_body(name, prefix) for name in state))
    return _TABLES[prefix]


def _is_body(name: str, prefix: str) -> bool:
    return re.match(rf"{re.escape(prefix)}(stem|res\d)\.", name) is not None


def _export_table(weights: Mapping[str, Tensor]) -> NameTable:
    if any(".cls_tower." in name for name in weights):
        return _RETINANET
    has_fpn = any(name.startswith("backbone.fpn.") for name in weights)
    return _FPN if has_fpn else _C4


def _conventions(state: Mapping[str, Tensor]) -> Conventions:
    """Old files have the mean and the standard deviation of pixels: the mean of blue is the smallest."""
    mean, std = state.get("pixel_mean"), state.get("pixel_std")
    if mean is None or std is None:
        return Conventions(norm_eps=_EPS, pixel_order="BGR")
    means = mean.flatten().tolist()
    first, second, third = std.flatten().tolist()
    return Conventions(
        norm_eps=_EPS, pixel_order="BGR" if means[0] <= means[2] else "RGB", pixel_std=(first, second, third)
    )


def _add_missing_statistics(weights: dict[str, Tensor]) -> None:
    """Bodies without statistics have them folded into scale and shift."""
    if any(name.endswith(".running_var") for name in weights):
        return
    for name in [name for name in weights if re.search(r"\.(bn\d|downsample\.1)\.weight$", name)]:
        module = name.removesuffix("weight")
        weights[f"{module}running_mean"] = weights[name].new_zeros(weights[name].shape)
        weights[f"{module}running_var"] = weights[name].new_ones(weights[name].shape)


def _convert_classes(converted: Converted) -> None:
    weights = converted.weights
    scores = weights.get(f"{_BOX}.cls_score.bias")
    if scores is None:
        return
    num_objects = len(scores) - 1
    for ending in ("weight", "bias"):
        convert_rows(weights, f"{_BOX}.cls_score.{ending}", background_first)
        convert_rows(weights, f"{_BOX}.bbox_pred.{ending}", partial(add_background, count=4))
        if len(weights.get(f"{_MASK}.mask_fcn_logits.{ending}", ())) == num_objects:
            convert_rows(weights, f"{_MASK}.mask_fcn_logits.{ending}", partial(add_background, count=1))
    converted.notes.append("the background was the last class; it is the first one here")


def _convert_anchors(
    weights: dict[str, Tensor], model: Conventions, reorder: Callable[[Tensor, int, int], Tensor]
) -> None:
    """Detectron2 counts all ratios of the first size first; here all sizes of the first ratio are first."""
    deltas = weights.get("rpn.head.bbox_pred.bias")
    if deltas is None:
        return
    num_anchors = len(deltas) // 4
    for layer in ("cls_logits", "bbox_pred"):
        for ending in ("weight", "bias"):
            convert_rows(
                weights,
                f"rpn.head.{layer}.{ending}",
                lambda rows: reorder(rows, num_anchors, model.aspect_ratios),
            )
