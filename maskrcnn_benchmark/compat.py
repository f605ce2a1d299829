"""Import paths of maskrcnn-benchmark, for code that was written for it.

maskrcnn-benchmark has a function for each part that a config describes, such as
`modeling.roi_heads.mask_head.loss.make_roi_mask_loss_evaluator`. Here a class has a `from_cfg`, and names in a config
are looked up in a registry. The tables below map upstream's names, and modules that have moved, to their replacements.
An import hook makes them importable: `from maskrcnn_benchmark.modeling.rpn.rpn import build_rpn` works. Replacements
are imported when they are first used.

The package itself does not use these names.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any, NamedTuple

PACKAGE = __name__.rpartition(".")[0]


class Here(NamedTuple):
    """An attribute of a module of this package.

    Attributes:
        attribute: its name, which may have dots, such as "BoxHead.from_cfg".
        module: its module, without the package; "" for the same module as upstream's.
    """

    attribute: str
    module: str = ""

    def resolve(self, upstream_module: str) -> Any:
        module = _import(self.module or upstream_module)
        return reduce(getattr, self.attribute.split("."), module)


class Registered(NamedTuple):
    """A function that builds the registry entry which the config names.

    Attributes:
        registry: its name in `modeling.registry`.
        section, key: MODEL.<section>.<key> is the name of the entry.
    """

    registry: str
    section: str
    key: str

    def resolve(self, upstream_module: str) -> Callable[..., Any]:
        _import(upstream_module)  # its entries register themselves
        entries = getattr(_import("modeling.registry"), self.registry)
        return lambda cfg, in_channels: entries[cfg.MODEL[self.section][self.key]](cfg, in_channels)


class LossOf(NamedTuple):
    """A function that builds the loss of a RoI head, called as (logits, positives, targets).

    Attributes:
        attribute, module: the `OutputKind` that computes the loss.
    """

    attribute: str
    module: str

    def resolve(self, upstream_module: str) -> Callable[..., Any]:
        kind_class = Here(self.attribute, self.module).resolve(upstream_module)

        def make_loss_evaluator(cfg: Any) -> Callable[..., Any]:
            kind = kind_class.from_cfg(cfg)
            return lambda logits, positives, targets: kind.loss(
                kind.select_own(logits, positives.labels), positives, targets
            )

        return make_loss_evaluator


def _import(module: str) -> ModuleType:
    return importlib.import_module(f"{PACKAGE}.{module}")


Entry = Here | Registered | LossOf

MOVED_MODULES: dict[str, str] = {  # upstream's module, with its submodules -> the module here
    "data.datasets.abstract": "compat_parts",
    "data.datasets.evaluation": "data.evaluation",
    "layers.batch_norm": "layers.norm",
    "layers.dcn.deform_conv_func": "layers.deformable",
    "layers.dcn.deform_conv_module": "layers.deformable",
    "layers.dcn": "layers",
    "layers.misc": "layers",
    "modeling.rpn.utils": "compat_parts",
    "modeling.utils": "compat_parts",
    "utils.cv2_util": "compat_parts",
    "utils.env": "compat_parts",
}

# Module (the new one if upstream's has moved) -> upstream's name -> its replacement.
NAMES: dict[str, dict[str, Entry]] = {
    "data.datasets": {
        "AbstractDataset": Here("AbstractDataset", "compat_parts"),
    },
    "data.evaluation.coco": {
        "coco_evaluation": Here("evaluate", "data.evaluation"),
    },
    "data.evaluation.coco.coco_eval": {
        "check_expected_results": Here("check_expected_results", "data.evaluation"),
    },
    "engine.trainer": {
        "reduce_loss_dict": Here("reduce_dict", "utils.comm"),
    },
    "layers.sigmoid_focal_loss": {
        "sigmoid_focal_loss_cpu": Here("sigmoid_focal_loss"),
        "sigmoid_focal_loss_cuda": Here("sigmoid_focal_loss"),
    },
    "modeling.make_layers": {
        "get_group_gn": Here("get_group_gn", "compat_parts"),
    },
    "modeling.poolers": {
        "LevelMapper": Here("LevelMapper", "compat_parts"),
        "make_pooler": Here("Pooler.from_cfg"),
    },
    "modeling.roi_heads.roi_heads": {
        "build_roi_heads": Here("CombinedROIHeads.from_cfg"),
    },
    "modeling.roi_heads.box_head.box_head": {
        "ROIBoxHead": Here("BoxHead"),
        "build_roi_box_head": Here("BoxHead.from_cfg"),
    },
    "modeling.roi_heads.box_head.inference": {
        "make_roi_box_post_processor": Here("PostProcessor.from_cfg"),
    },
    "modeling.roi_heads.box_head.roi_box_feature_extractors": {
        "make_roi_box_feature_extractor": Registered("ROI_BOX_FEATURE_EXTRACTORS", "ROI_BOX_HEAD", "FEATURE_EXTRACTOR"),
    },
    "modeling.roi_heads.box_head.roi_box_predictors": {
        "make_roi_box_predictor": Registered("ROI_BOX_PREDICTOR", "ROI_BOX_HEAD", "PREDICTOR"),
    },
    "modeling.roi_heads.mask_head.mask_head": {
        "ROIMaskHead": Here("MaskHead"),
        "build_roi_mask_head": Here("MaskHead.from_cfg"),
        "keep_only_positive_boxes": Here("keep_only_positive_boxes", "compat_parts"),
    },
    "modeling.roi_heads.mask_head.inference": {
        "expand_boxes": Here("expand_boxes", "compat_parts"),
        "expand_masks": Here("expand_masks", "compat_parts"),
        "make_roi_mask_post_processor": Here("MaskPostProcessor.from_cfg"),
        "paste_mask_in_image": Here("paste_mask_in_image", "compat_parts"),
    },
    "modeling.roi_heads.mask_head.loss": {
        "MaskRCNNLossComputation": Here("MaskKind", "modeling.roi_heads.mask_head.output"),
        "make_roi_mask_loss_evaluator": LossOf("MaskKind", "modeling.roi_heads.mask_head.output"),
    },
    "modeling.roi_heads.mask_head.roi_mask_feature_extractors": {
        "make_roi_mask_feature_extractor": Registered(
            "ROI_MASK_FEATURE_EXTRACTORS", "ROI_MASK_HEAD", "FEATURE_EXTRACTOR"
        ),
    },
    "modeling.roi_heads.mask_head.roi_mask_predictors": {
        "make_roi_mask_predictor": Registered("ROI_MASK_PREDICTOR", "ROI_MASK_HEAD", "PREDICTOR"),
    },
    "modeling.roi_heads.keypoint_head.keypoint_head": {
        "ROIKeypointHead": Here("KeypointHead"),
        "build_roi_keypoint_head": Here("KeypointHead.from_cfg"),
    },
    "modeling.roi_heads.keypoint_head.inference": {
        "Keypointer": Here("Keypointer", "compat_parts"),
        "heatmaps_to_keypoints": Here("heatmaps_to_keypoints", "compat_parts"),
        "make_roi_keypoint_post_processor": Here("KeypointPostProcessor.from_cfg"),
    },
    "modeling.roi_heads.keypoint_head.loss": {
        "KeypointRCNNLossComputation": Here("KeypointKind", "modeling.roi_heads.keypoint_head.output"),
        "make_roi_keypoint_loss_evaluator": LossOf("KeypointKind", "modeling.roi_heads.keypoint_head.output"),
        "project_keypoints_to_heatmap": Here("project_keypoints_to_heatmap", "compat_parts"),
    },
    "modeling.roi_heads.keypoint_head.roi_keypoint_feature_extractors": {
        "make_roi_keypoint_feature_extractor": Registered(
            "ROI_KEYPOINT_FEATURE_EXTRACTORS", "ROI_KEYPOINT_HEAD", "FEATURE_EXTRACTOR"
        ),
    },
    "modeling.roi_heads.keypoint_head.roi_keypoint_predictors": {
        "make_roi_keypoint_predictor": Registered("ROI_KEYPOINT_PREDICTOR", "ROI_KEYPOINT_HEAD", "PREDICTOR"),
    },
    "modeling.rpn.anchor_generator": {
        "make_anchor_generator": Here("AnchorGenerator.from_cfg"),
        "make_anchor_generator_retinanet": Here("make_retinanet_anchors", "modeling.rpn.retinanet.retinanet"),
    },
    "modeling.rpn.inference": {
        "make_rpn_postprocessor": Here("RPNPostProcessor.from_cfg"),
    },
    "modeling.rpn.loss": {
        "make_rpn_loss_evaluator": Here("RPNLossComputation.from_cfg"),
    },
    "modeling.rpn.retinanet.inference": {
        "make_retinanet_postprocessor": Here("RetinaNetPostProcessor.from_cfg"),
    },
    "modeling.rpn.retinanet.loss": {
        "make_retinanet_loss_evaluator": Here("RetinaNetLossComputation.from_cfg"),
    },
    "modeling.rpn.retinanet.retinanet": {
        "build_retinanet": Here("RetinaNetModule.from_cfg"),
    },
    "modeling.rpn.rpn": {
        "build_rpn": Here("build_rpn", "modeling.rpn.build"),
    },
    "structures.keypoint": {
        "keypoints_to_heat_map": Here("keypoints_to_heat_map", "compat_parts"),
    },
    "utils.c2_model_loading": {
        "load_c2_format": Here("load_c2_format", "modeling.state_dict_names"),
    },
    "utils.checkpoint": {
        "DetectronCheckpointer": Here("DetectronCheckpointer", "engine.checkpointer"),
    },
    "utils.model_serialization": {
        "load_state_dict": Here("load_state_dict", "modeling.state_dict_names"),
    },
}


def install_import_hook() -> None:
    """Make upstream's import paths work; calling it again changes nothing."""
    if not any(isinstance(finder, _UpstreamFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _UpstreamFinder())


class _UpstreamFinder(MetaPathFinder):
    """Finds moved modules, and adds upstream's names to the modules in NAMES."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != PACKAGE:
            return None
        for old, new in MOVED_MODULES.items():
            if name == old or name.startswith(f"{old}."):
                return ModuleSpec(fullname, _AliasLoader(PACKAGE + "." + new + name[len(old) :]))
        if name not in NAMES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _LoaderWithUpstreamNames(spec.loader.name, spec.loader.path)
        return spec


class _AliasLoader(Loader):
    """Loads another module in place of the imported one. Both names then refer to the same module."""

    def __init__(self, module: str) -> None:
        self.module = module

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(self.module)


class _LoaderWithUpstreamNames(SourceFileLoader):
    """Loads a module of the package and gives it a `__getattr__` that knows upstream's names."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        name = module.__name__.partition(".")[2]
        module.__dict__["__getattr__"] = _attribute_lookup(module, name, NAMES[name])


def _attribute_lookup(module: ModuleType, name: str, upstream: Mapping[str, Entry]) -> Callable[[str], Any]:
    def __getattr__(attribute: str) -> Any:
        if attribute in upstream:
            return upstream[attribute].resolve(name)
        raise AttributeError(f"module {module.__name__!r} has no attribute {attribute!r}")

    return __getattr__
