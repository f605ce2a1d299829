"""Whole models on a simulated GPU: same results as on the CPU, tensors where they belong, and few waits, each known.

`WAITS_OF_TRAINING` and `WAITS_OF_INFERENCE` are the lists that docs/GPU_STATUS.md explains.
"""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import pytest
import torch

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.data.evaluation.coco.image_results import ImageResult
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask
from maskrcnn_benchmark.utils.detector_kind import num_classes
from tests.modeling.tiny import (
    ALL_HEADS,
    REFINED_MASKS,
    RETINANET,
    TWO_MASKS,
    add_two_masks,
    tiny_cfg,
    tiny_detector,
    tiny_target,
)
from tests.simulated_cuda import NO_SIMULATION, CudaTensor, simulated_cuda

pytestmark = pytest.mark.skipif(NO_SIMULATION is not None, reason=str(NO_SIMULATION))

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MASK_MODEL = "e2e_mask_rcnn_R_50_FPN_1x.yaml"
MODELS = [MASK_MODEL, "e2e_keypoint_rcnn_R_50_FPN_1x.yaml", "hrnet_refine.yaml"]
SMALL = [
    *("MODEL.WEIGHT", "", "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 32, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32),
    *("MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN", 60, "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST", 40),
    *("MODEL.ROI_HEADS.DETECTIONS_PER_IMG", 8, "MODEL.ROI_HEADS.SCORE_THRESH", 0.1),
]
NARROW_RESNET = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 16),
]

FEW_CLASSES = ["MODEL.RETINANET.NUM_CLASSES", 3, "MODEL.RETINANET.NUM_CONVS", 1, "TEST.DETECTIONS_PER_IMG", 8]
CLASSLESS = ("MODEL.ROI_MULTI_MASK_HEAD.CLS_AGNOSTIC_MASK", True)

# (place, operation) -> how often in a step, whatever the number of images
WAITS_OF_TRAINING = {
    # how many proposals each image has: they leave the RPN as one BoxList per image
    ("modeling/selection.py:split_rows", "_to_copy"): 1,
    # how many regions were sampled, and the matches of the foreground, from which the host draws mask targets
    ("modeling/roi_heads/sampling.py:ProposalSampler._fetch", "_to_copy"): 1,
    # whether a ground-truth box is without area: asked for before the backbone and there long before it is read
    ("modeling/batching.py:HostCopy.wait", "Event.synchronize"): 1,
}
WAITS_OF_INFERENCE = {
    # how many proposals each image has, and later how many detections
    ("modeling/selection.py:split_rows", "_to_copy"): 2,
    # how many pairs of region and class score above the threshold
    ("layers/reference/candidates.py:classes_above", "nonzero"): 1,
}
RETINANET_MODEL = "retinanet/retinanet_R-50-FPN_1x.yaml"
# a RetinaNet needs no number on the host but those of its results
WAITS_OF_RETINANET_TRAINING = {("modeling/batching.py:HostCopy.wait", "Event.synchronize"): 1}
WAITS_OF_RETINANET_INFERENCE = {("modeling/selection.py:split_rows", "_to_copy"): 1}
# the sizes of the regions, to which heat maps are enlarged
BICUBIC = {("layers/reference/keypoints.py:decode_bicubic", "_to_copy"): 1}


def small_model(name, *opts):
    narrow = NARROW_RESNET if "R_50" in name else []
    cfg = load_config(CONFIGS / name, [*SMALL, *narrow, *opts])
    if "mask" in name:
        cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES = 3  # an untrained model finds something when there are few classes
    return cfg, build_detection_model(cfg)


def batch(cfg, masks="poly", images=3):
    """Images of several sizes, the third without ground truth."""
    generator = torch.Generator().manual_seed(3)
    pixels, targets = [], []
    for number in range(images):
        (width, height), boxes = [
            ((96, 64), [[8.0, 8, 39, 47], [52, 20, 83, 59]]),
            ((72, 80), [[20.0, 12, 59, 63]]),
            ((64, 64), []),
        ][number % 3]
        pixels.append(torch.randn(3, height, width, generator=generator))
        target = tiny_target(boxes, (width, height), cfg.MODEL.BOX_OFFSET)
        last_label = num_classes(cfg)[1] - 1
        target.add_field(fields.LABELS, target.get_field(fields.LABELS).clamp(max=last_label))
        target.add_field(fields.MASKS, target.get_field(fields.MASKS).convert(masks))
        targets.append(target)
    return pixels, targets


def step(model, pixels, targets):
    """Losses of one step, and the gradients that it leaves."""
    torch.manual_seed(7)  # sampling draws
    losses = model.train()(pixels, targets)
    sum(losses.values()).backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return losses, gradients


def held(value):
    """The CPU tensor with the values of one on the simulated device, which it has to be on."""
    assert isinstance(value, CudaTensor)
    return value.held


def check_step(model, pixels, targets, waits):
    """A step on the simulated device: as on the CPU, and with these waits.

    Proposals are decoded by PyTorch's ops there and by a kernel on the CPU, which round differently.
    """
    twin = copy.deepcopy(model)
    losses, gradients = step(model, pixels, targets)
    with simulated_cuda() as device:
        twin.to("cuda")
        pixels, targets = [image.to("cuda") for image in pixels], [target.to("cuda") for target in targets]
        device.waits.clear()
        losses_there, gradients_there = step(twin, pixels, targets)
    assert device.waits == waits
    assert losses_there.keys() == losses.keys() and gradients_there.keys() == gradients.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(held(losses_there[name]), loss.detach(), msg=f"{name}: {{}}".format)
    for name, gradient in gradients.items():
        close = {"rtol": 1e-4, "atol": 1e-5 * max(1.0, gradient.abs().max().item())}
        torch.testing.assert_close(held(gradients_there[name]), gradient, **close, msg=f"{name}: {{}}".format)


@pytest.mark.parametrize(
    ("name", "masks"),
    [
        *((name, "poly") for name in MODELS),
        (MASK_MODEL, "mask"),
        pytest.param("hrnet_refine.yaml", "mask", marks=pytest.mark.slow),
    ],
)
def test_training_step(name, masks):
    cfg, model = small_model(name)
    check_step(model, *batch(cfg, masks), WAITS_OF_TRAINING)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "opts"),
    [
        ("e2e_mask_rcnn_R_50_C4_1x.yaml", []),  # one level, and heads that share the box head's features
        (MASK_MODEL, ["MODEL.RESNETS.STAGE_WITH_DCN", (False, True, True, True), "MODEL.CLS_AGNOSTIC_BBOX_REG", True]),
        (MASK_MODEL, ["MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "FPNXconv1fcFeatureExtractor"]),
        ("hrnet_refine.yaml", ["MODEL.HRNET.NORM", "BN", "MODEL.HRNET.CHECKPOINT_ACTIVATIONS", True]),
        (
            "hrnet_refine.yaml",
            [
                *("MODEL.ROI_REFINE_HEAD.INDICATOR_FORM", "features", "MODEL.ROI_REFINE_HEAD.SHARED", False),
                *("MODEL.ROI_REFINE_HEAD.NUM_STACKS", 2, "MODEL.ROI_REFINE_HEAD.INTERMEDIATE_SUPERVISION", True),
            ],
        ),
    ],
)
def test_training_step_of_other_models(name, opts):
    cfg, model = small_model(name, *opts)
    check_step(model, *batch(cfg), WAITS_OF_TRAINING)


@pytest.mark.parametrize("images", [2, 16])
def test_waits_do_not_grow_with_the_batch(images):
    cfg = tiny_cfg(*ALL_HEADS)
    check_step(tiny_detector(cfg), *batch(cfg, images=images), WAITS_OF_TRAINING)


def test_instances_without_masks():
    cfg = tiny_cfg(*ALL_HEADS)
    pixels, targets = batch(cfg)
    for target in targets:
        target.add_field(fields.MASKS_PRESENT, torch.arange(len(target)) % 2 == 0)
    check_step(tiny_detector(cfg), pixels, targets, WAITS_OF_TRAINING)


@pytest.mark.parametrize("opts", [TWO_MASKS, REFINED_MASKS, (*TWO_MASKS, *CLASSLESS)])
def test_two_masks_of_each_instance(opts):
    cfg = tiny_cfg(*opts)
    pixels, targets = batch(cfg)
    for target in targets:
        add_two_masks(target)
    check_step(tiny_detector(cfg), pixels, targets, WAITS_OF_TRAINING)


def test_single_image():
    cfg = tiny_cfg(*ALL_HEADS)
    waits = Counter(WAITS_OF_TRAINING)
    waits["modeling/selection.py:split_rows", "nonzero"] = waits.pop(("modeling/selection.py:split_rows", "_to_copy"))
    check_step(tiny_detector(cfg), *batch(cfg, images=1), waits)


def test_no_ground_truth_at_all():
    cfg = tiny_cfg(*ALL_HEADS)
    pixels, targets = batch(cfg)
    check_step(tiny_detector(cfg), pixels[2:] * 2, targets[2:] * 2, WAITS_OF_TRAINING)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("opts", [["ROI_HEADS.GT_PROPOSALS_FOR", "box"], ["RPN.ADD_GT_PROPOSALS", False]])
def test_ground_truth_among_the_proposals(opts, frozen):
    opts = [f"MODEL.{opts[0]}", opts[1], "MODEL.ROI_REFINE_HEAD.FREEZE_DETECTOR", frozen]
    cfg = tiny_cfg(*ALL_HEADS, *opts)
    check_step(tiny_detector(cfg), *batch(cfg), WAITS_OF_TRAINING)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_gaussian_targets_and_hard_keypoints(loss):
    head = "MODEL.ROI_KEYPOINT_HEAD"
    opts = [f"{head}.TARGET", "gaussian", f"{head}.LOSS", loss, f"{head}.JOINT_WEIGHTS", [1.0, *[2.0] * 16]]
    cfg = tiny_cfg(*ALL_HEADS, *opts, f"{head}.OHKM_TOP", 8)
    check_step(tiny_detector(cfg), *batch(cfg), WAITS_OF_TRAINING)


def test_detector_that_is_frozen():
    cfg = tiny_cfg(*ALL_HEADS, "MODEL.ROI_REFINE_HEAD.FREEZE_DETECTOR", True)
    check_step(tiny_detector(cfg), *batch(cfg), WAITS_OF_TRAINING)


def test_rpn_alone():
    cfg = tiny_cfg("MODEL.RPN_ONLY", True)
    waits = {place: count for place, count in WAITS_OF_TRAINING.items() if "HostCopy" in place[0]}
    check_step(tiny_detector(cfg), *batch(cfg), waits)


@pytest.mark.parametrize(
    "name", [RETINANET_MODEL, pytest.param("retinanet/retinanet_hrnet_w18_1x.yaml", marks=pytest.mark.slow)]
)
def test_training_step_of_retinanet(name):
    cfg, model = small_model(name, *FEW_CLASSES)
    check_step(model, *batch(cfg), WAITS_OF_RETINANET_TRAINING)


@pytest.mark.parametrize("images", [1, 2, 16])
def test_waits_of_retinanet_do_not_grow_with_the_batch(images):
    cfg = tiny_cfg(*RETINANET)
    check_step(tiny_detector(cfg), *batch(cfg, images=images), WAITS_OF_RETINANET_TRAINING)


def test_retinanet_without_ground_truth():
    cfg = tiny_cfg(*RETINANET)
    pixels, targets = batch(cfg)
    check_step(tiny_detector(cfg), pixels[2:] * 2, targets[2:] * 2, WAITS_OF_RETINANET_TRAINING)


@pytest.mark.parametrize("threshold", [0.05, 1.0])
def test_inference_of_retinanet(threshold):
    cfg, model = small_model(RETINANET_MODEL, *FEW_CLASSES, "MODEL.RETINANET.INFERENCE_TH", threshold)
    torch.nn.init.zeros_(model.rpn.head.cls_logits.bias)  # else it finds nothing before it is trained
    torch.nn.init.normal_(model.rpn.head.cls_logits.weight)
    pixels, _ = batch(cfg)
    check_inference(model, pixels, 8 if threshold < 1 else 0, WAITS_OF_RETINANET_INFERENCE)


def test_flawed_ground_truth_is_named():
    cfg = tiny_cfg()
    pixels, targets = batch(cfg)
    targets[1].bbox[0] = torch.tensor([20.0, 12, 10, 63])
    with simulated_cuda():
        model = tiny_detector(cfg).to("cuda")
        with pytest.raises(ValueError, match=r"image 1 of the batch: ground-truth box 0 is .* = \(20, 12, 10, 63\)"):
            model([image.to("cuda") for image in pixels], targets)  # the targets are moved by the model


def detect(model, pixels):
    with torch.no_grad():
        return model.eval()(pixels)


def check_inference(model, pixels, count, waits):
    """`count` detections in each image, the same on the simulated GPU, where the host waits as `waits` says."""
    expected = detect(model, pixels)
    assert all(len(detections) == count for detections in expected)
    with simulated_cuda() as device:
        model.to("cuda")
        pixels = [image.to("cuda") for image in pixels]
        device.waits.clear()
        found = detect(model, pixels)
        assert device.waits == waits
    for there, here in zip(found, expected, strict=True):
        check_detections(there, here)


def check_detections(found, expected):
    """Everything of the BoxLists on the device is as in those of the CPU."""
    assert len(found) == len(expected) and found.fields() == expected.fields()
    torch.testing.assert_close(held(found.bbox), expected.bbox)
    for name in expected.fields():
        there, here = found.get_field(name), expected.get_field(name)
        if name in (fields.KEYPOINTS, fields.COARSE_KEYPOINTS):
            torch.testing.assert_close(held(there.keypoints), here.keypoints)
            there, here = there.get_field(fields.LOGITS), here.get_field(fields.LOGITS)
        elif isinstance(here, BoxList):
            there, here = there.bbox, here.bbox
        torch.testing.assert_close(held(there), here)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "opts", "more_waits"),
    [
        (MASK_MODEL, [], {}),
        (MASK_MODEL, ["MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS", True], {}),
        ("e2e_keypoint_rcnn_R_50_FPN_1x.yaml", [], BICUBIC),
        ("hrnet_refine.yaml", [], {}),
        (
            "hrnet_refine.yaml",
            [
                *("MODEL.ROI_MASK_HEAD.RESCORE", True, "MODEL.ROI_KEYPOINT_HEAD.RESCORE", True),
                *("MODEL.ROI_REFINE_HEAD.RESCORE", True),
            ],
            {},
        ),
        (MASK_MODEL, ["MODEL.ROI_HEADS.SCORE_THRESH", 1.1], {}),  # nothing is found
        ("hrnet_refine.yaml", ["MODEL.ROI_HEADS.SCORE_THRESH", 1.1], {}),
        ("e2e_keypoint_rcnn_R_50_FPN_1x.yaml", ["MODEL.ROI_HEADS.SCORE_THRESH", 1.1], BICUBIC),
    ],
)
def test_inference(name, opts, more_waits):
    cfg, model = small_model(name, *opts)
    pixels, _ = batch(cfg)
    expected = detect(model, pixels)
    assert all(len(detections) == (0 if 1.1 in opts else 8) for detections in expected)
    with simulated_cuda() as device:
        model.to("cuda")
        pixels = [image.to("cuda") for image in pixels]
        device.waits.clear()
        found = detect(model, pixels)
        assert device.waits == {**WAITS_OF_INFERENCE, **more_waits}
        results = [ImageResult.from_detections(detections, (120, 90)).plain() for detections in found]
    for there, here in zip(found, expected, strict=True):
        check_detections(there, here)
    for there, detections in zip(results, expected, strict=True):
        here = ImageResult.from_detections(detections, (120, 90)).plain()
        assert there["masks"] == here["masks"]
        torch.testing.assert_close(there["boxes_xywh"], here["boxes_xywh"])
        torch.testing.assert_close(there["keypoints"], here["keypoints"])


@pytest.mark.parametrize("opts", [TWO_MASKS, REFINED_MASKS, (*TWO_MASKS, *CLASSLESS)])
def test_inference_of_two_masks(opts):
    cfg = tiny_cfg("MODEL.ROI_HEADS.SCORE_THRESH", 0.1, "MODEL.ROI_HEADS.DETECTIONS_PER_IMG", 8, *opts)
    model, (pixels, _) = tiny_detector(cfg), batch(cfg)
    check_inference(model, pixels, 8, WAITS_OF_INFERENCE)


def test_masks_of_bitmaps_are_drawn_where_the_regions_are():
    bitmap = torch.zeros(2, 40, 60)
    bitmap[0, 10:30, 5:25], bitmap[1, 20:, 30:] = 1, 1
    masks = SegmentationMask(bitmap, (60, 40))
    regions, instances = torch.tensor([[0.0, 0, 30, 40], [25, 10, 60, 40], [0, 0, 60, 40]]), torch.tensor([0, 1, 1])
    expected = masks.rasterize(regions, 14, instances)
    with simulated_cuda():
        drawn = masks.to("cuda").rasterize(regions.to("cuda"), 14, instances.to("cuda"))
    assert torch.equal(held(drawn), expected)
