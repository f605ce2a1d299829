"""Import paths of maskrcnn-benchmark keep working, and cost nothing until they are used."""

import importlib
import inspect
import subprocess
import sys
from types import ModuleType

import pytest
import torch

from maskrcnn_benchmark import compat
from maskrcnn_benchmark.config import load_config
from tests.modeling.roi_heads.head_cases import person_batch, small_cfg

UPSTREAM = """
config: cfg
config.defaults: _C
config.paths_catalog: DatasetCatalog ModelCatalog
data: make_data_loader
data.build: build_dataset make_data_loader
data.collate_batch: BatchCollator
data.datasets: COCODataset ConcatDataset
data.datasets.coco: COCODataset
data.datasets.concat_dataset: ConcatDataset
data.datasets.list_dataset: ListDataset
data.datasets.evaluation: evaluate
data.datasets.evaluation.coco: coco_evaluation
data.datasets.evaluation.coco.coco_eval: check_expected_results
data.samplers: DistributedSampler GroupedBatchSampler IterationBasedBatchSampler
data.samplers.distributed: DistributedSampler
data.samplers.grouped_batch_sampler: GroupedBatchSampler
data.samplers.iteration_based_batch_sampler: IterationBasedBatchSampler
data.transforms: Compose Resize RandomHorizontalFlip ToTensor Normalize build_transforms
data.transforms.build: build_transforms
data.transforms.transforms: Compose Resize RandomHorizontalFlip RandomVerticalFlip ColorJitter ToTensor Normalize
engine.inference: inference compute_on_dataset
engine.trainer: do_train
layers: nms Conv2d DFConv2d ConvTranspose2d BatchNorm2d interpolate roi_align ROIAlign roi_pool ROIPool smooth_l1_loss
    FrozenBatchNorm2d deform_conv
layers.batch_norm: FrozenBatchNorm2d
layers.misc: Conv2d ConvTranspose2d BatchNorm2d interpolate DFConv2d
layers.batch_norm: FrozenBatchNorm2d
layers.misc: Conv2d DFConv2d ConvTranspose2d BatchNorm2d interpolate
layers.nms: nms
layers.roi_align: ROIAlign roi_align
layers.smooth_l1_loss: smooth_l1_loss
modeling.registry: BACKBONES RPN_HEADS ROI_BOX_FEATURE_EXTRACTORS ROI_BOX_PREDICTOR ROI_KEYPOINT_FEATURE_EXTRACTORS
    ROI_KEYPOINT_PREDICTOR ROI_MASK_FEATURE_EXTRACTORS ROI_MASK_PREDICTOR
modeling.balanced_positive_negative_sampler: BalancedPositiveNegativeSampler
modeling.box_coder: BoxCoder
modeling.make_layers: group_norm make_conv3x3 make_fc conv_with_kaiming_uniform
modeling.matcher: Matcher
modeling.poolers: Pooler
modeling.backbone: build_backbone
modeling.backbone.backbone: build_backbone build_resnet_backbone build_resnet_fpn_backbone build_hrnet_backbone
    build_hrnet_hrfpn_backbone
modeling.backbone.fpn: FPN LastLevelMaxPool LastLevelP6P7
modeling.backbone.hrfpn: HRFPN
modeling.backbone.hrnet: HRNet HighResolutionModule BasicBlock Bottleneck
modeling.backbone.resnet: ResNet ResNetHead Bottleneck
modeling.detector: build_detection_model
modeling.detector.detectors: build_detection_model
modeling.detector.generalized_rcnn: GeneralizedRCNN
modeling.rpn.anchor_generator: AnchorGenerator BufferList make_anchor_generator generate_anchors
modeling.rpn.inference: RPNPostProcessor make_rpn_postprocessor
modeling.rpn.loss: RPNLossComputation make_rpn_loss_evaluator
modeling.rpn.rpn: RPNModule RPNHead build_rpn
modeling.roi_heads.roi_heads: CombinedROIHeads build_roi_heads
modeling.roi_heads.box_head.box_head: build_roi_box_head
modeling.roi_heads.box_head.inference: PostProcessor make_roi_box_post_processor
modeling.roi_heads.box_head.roi_box_feature_extractors: ResNet50Conv5ROIFeatureExtractor FPN2MLPFeatureExtractor
    FPNXconv1fcFeatureExtractor make_roi_box_feature_extractor
modeling.roi_heads.box_head.roi_box_predictors: FastRCNNPredictor FPNPredictor make_roi_box_predictor
modeling.roi_heads.mask_head.mask_head: build_roi_mask_head
modeling.roi_heads.mask_head.inference: MaskPostProcessor Masker make_roi_mask_post_processor
modeling.roi_heads.mask_head.loss: MaskRCNNLossComputation make_roi_mask_loss_evaluator
modeling.roi_heads.mask_head.roi_mask_feature_extractors: MaskRCNNFPNFeatureExtractor make_roi_mask_feature_extractor
modeling.roi_heads.mask_head.roi_mask_predictors: MaskRCNNC4Predictor MaskRCNNConv1x1Predictor make_roi_mask_predictor
modeling.roi_heads.keypoint_head.keypoint_head: build_roi_keypoint_head
modeling.roi_heads.keypoint_head.inference: KeypointPostProcessor make_roi_keypoint_post_processor
modeling.roi_heads.keypoint_head.loss: KeypointRCNNLossComputation make_roi_keypoint_loss_evaluator
modeling.roi_heads.keypoint_head.roi_keypoint_feature_extractors: KeypointRCNNFeatureExtractor
    make_roi_keypoint_feature_extractor
modeling.roi_heads.keypoint_head.roi_keypoint_predictors: KeypointRCNNPredictor make_roi_keypoint_predictor
solver: make_optimizer make_lr_scheduler WarmupMultiStepLR
solver.build: make_optimizer make_lr_scheduler
solver.lr_scheduler: WarmupMultiStepLR
structures.bounding_box: BoxList FLIP_LEFT_RIGHT FLIP_TOP_BOTTOM
structures.boxlist_ops: boxlist_nms remove_small_boxes boxlist_iou cat_boxlist
structures.image_list: ImageList to_image_list
structures.keypoint: Keypoints PersonKeypoints
structures.segmentation_mask: SegmentationMask FLIP_LEFT_RIGHT FLIP_TOP_BOTTOM
utils.c2_model_loading: load_c2_format
utils.checkpoint: Checkpointer DetectronCheckpointer
utils.collect_env: collect_env_info
utils.comm: get_world_size get_rank is_main_process synchronize all_gather reduce_dict
utils.imports: import_file
utils.logger: setup_logger
utils.metric_logger: SmoothedValue MetricLogger
utils.miscellaneous: mkdir save_labels save_config
utils.model_serialization: strip_prefix_if_present load_state_dict
utils.model_zoo: cache_url
utils.registry: Registry
utils.timer: Timer get_time_str
"""  # module below the package: public names of maskrcnn-benchmark in it that user code may import


def upstream_names() -> list[tuple[str, str]]:
    names = []
    for line in UPSTREAM.replace("\n    ", " ").strip().splitlines():
        module, _, attributes = line.partition(": ")
        names += [(module, attribute) for attribute in attributes.split()]
    return names


def import_name(module: str, name: str) -> object:
    namespace: dict[str, object] = {}
    exec(f"from maskrcnn_benchmark.{module} import {name} as found", namespace)  # as user code does it
    return namespace["found"]


@pytest.mark.parametrize(("module", "name"), upstream_names())
def test_public_names_of_upstream_are_importable(module, name):
    assert import_name(module, name) is not None


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in compat.NAMES.items() for name in names]
)
def test_names_of_the_table_lead_somewhere(module, name):
    assert callable(import_name(module, name))
    assert name not in vars(importlib.import_module(f"maskrcnn_benchmark.{module}")), "the module has this name itself"


def test_functions_of_upstream_build_what_the_config_says():
    make_anchor_generator = import_name("modeling.rpn.anchor_generator", "make_anchor_generator")
    generator = make_anchor_generator(load_config(opts=["MODEL.RPN.ASPECT_RATIOS", (1.0,)]))
    assert type(generator) is import_name("modeling.rpn.anchor_generator", "AnchorGenerator")
    assert set(generator.num_anchors_per_location()) == {5}  # five sizes on the one level of the default config


def test_names_in_the_config_are_looked_up():
    cfg = load_config(opts=["MODEL.ROI_MASK_HEAD.PREDICTOR", "MaskRCNNConv1x1Predictor"])
    module = "modeling.roi_heads.mask_head.roi_mask_predictors"
    predictor = import_name(module, "make_roi_mask_predictor")(cfg, 4)
    assert type(predictor) is import_name(module, "MaskRCNNConv1x1Predictor")
    cfg.MODEL.ROI_MASK_HEAD.PREDICTOR = "Nobody"
    with pytest.raises(KeyError, match="'Nobody' is not registered; registered: MaskRCNNC4Predictor"):
        import_name(module, "make_roi_mask_predictor")(cfg, 4)


@pytest.mark.parametrize("head", ["mask", "keypoint"])
def test_loss_evaluators_give_the_loss_of_the_heads_own_class(head):
    cfg = small_cfg()
    module = f"modeling.roi_heads.{head}_head"
    evaluator = import_name(f"{module}.loss", f"make_roi_{head}_loss_evaluator")(cfg)
    kind = import_name(f"{module}.output", f"{head.title()}Kind").from_cfg(cfg)
    targets, positives = person_batch()
    side = cfg.MODEL[f"ROI_{head.upper()}_HEAD"].RESOLUTION
    logits = torch.randn(len(positives.boxes), kind.num_maps, side, side, generator=torch.Generator().manual_seed(1))
    expected = kind.loss(kind.select_own(logits, positives.labels), positives, targets)
    assert evaluator(logits, positives, targets) == expected > 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("layers.batch_norm", "layers.norm"),
        ("data.datasets.evaluation", "data.evaluation"),
        ("data.datasets.evaluation.coco.coco_eval", "data.evaluation.coco.coco_eval"),
    ],
)
def test_a_moved_module_is_the_module_itself(old, new):
    alias = importlib.import_module(f"maskrcnn_benchmark.{old}")
    assert alias is importlib.import_module(f"maskrcnn_benchmark.{new}")
    assert alias.__name__ == f"maskrcnn_benchmark.{new}"


def test_a_name_that_does_not_exist_is_refused_as_in_any_module():
    import maskrcnn_benchmark.modeling.rpn.loss as hooked

    with pytest.raises(AttributeError, match="module 'maskrcnn_benchmark.modeling.rpn.loss' has no attribute 'nobody'"):
        _ = hooked.nobody
    with pytest.raises(ImportError, match="cannot import name 'nobody'"):
        import_name("modeling.rpn.loss", "nobody")
    with pytest.raises(ModuleNotFoundError, match="maskrcnn_benchmark.modeling.nowhere"):
        importlib.import_module("maskrcnn_benchmark.modeling.nowhere")
    with pytest.raises(ModuleNotFoundError, match="maskrcnn_benchmark.data.evaluation.nowhere"):
        importlib.import_module("maskrcnn_benchmark.data.datasets.evaluation.nowhere")


def test_modules_with_upstream_names_keep_their_source():
    module = importlib.import_module("maskrcnn_benchmark.modeling.rpn.loss")
    assert isinstance(module, ModuleType)
    assert "class RPNLossComputation" in inspect.getsource(module)


def test_the_hook_is_installed_once():
    def count() -> int:
        return sum(type(finder).__name__ == "_UpstreamFinder" for finder in sys.meta_path)

    assert count() == 1
    compat.install_import_hook()
    assert count() == 1


def test_importing_the_package_imports_nothing_else():
    code = (
        "import sys, maskrcnn_benchmark\n"
        "assert not {'torch', 'numpy', 'yacs'} & set(sys.modules)\n"
        "print(*sorted(name for name in sys.modules if name.startswith('maskrcnn_benchmark')))"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.split() == ["maskrcnn_benchmark", "maskrcnn_benchmark.compat"]
