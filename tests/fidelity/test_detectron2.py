"""Every stage of the models of configs/detectron2 against Detectron2's definitions, with the same weights."""

from functools import reduce
from pathlib import Path

import pytest
import torch

from benchmarks import fidelity
from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.data.transforms import build_transforms
from maskrcnn_benchmark.drawing.masks import image_masks
from maskrcnn_benchmark.engine.predictor import detections_in_image
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.modeling.state_dict_names import conventions_of, convert_file, load_state_dict
from maskrcnn_benchmark.structures.image_list import to_image_list
from tests.fidelity import detectron2_reference as peer

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "detectron2"
NARROW = ["MODEL.DEVICE", "cpu", "MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16]
NARROW += ["MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 32]
NARROW += ["MODEL.ROI_MASK_HEAD.CONV_LAYERS", "(16, 16, 16, 16)", "MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS", str((16,) * 8)]
NARROW += ["INPUT.MIN_SIZE_TEST", 160, "INPUT.MAX_SIZE_TEST", 267]
CASES = {
    "mask_rcnn_R_50_FPN_1x": ("FPN", 16, 6, (1000, 1000)),
    "keypoint_rcnn_R_50_FPN_1x": ("FPN", 16, 2, (1000, 1000)),
    "mask_rcnn_R_50_C4_1x": ("C4", 64, 6, (6000, 1000)),
    "mask_rcnn_R_50_DC5_1x": ("DC5", 128, 6, (6000, 1000)),
}

# Defaults of Detectron2 and keys of its base configs, under the names that they have here.
DEFAULTS = {
    "INPUT.MIN_SIZE_TRAIN": (640, 672, 704, 736, 768, 800),
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1333,
    "INPUT.RESIZE": "detectron2",
    "INPUT.TO_BGR255": True,
    "INPUT.FORMAT": "",
    "INPUT.PIXEL_MEAN": [103.53, 116.28, 123.675],
    "INPUT.PIXEL_STD": [1.0, 1.0, 1.0],
    "INPUT.HORIZONTAL_FLIP_PROB_TRAIN": 0.5,
    "DATALOADER.ASPECT_RATIO_GROUPING": True,
    "DATASETS.FILTER_EMPTY": True,
    "MODEL.BOX_OFFSET": 0,
    "MODEL.CLS_AGNOSTIC_BBOX_REG": False,
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 2,
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.RESNETS.NORM_EPS": 1e-5,
    "MODEL.RPN.ANCHOR_SIZES": (32, 64, 128, 256, 512),
    "MODEL.RPN.ASPECT_RATIOS": (0.5, 1.0, 2.0),
    "MODEL.RPN.ANCHOR_OFFSET": 0.0,
    "MODEL.RPN.ANCHOR_ROUNDING": "none",
    "MODEL.RPN.ANCHOR_STEP_FROM_SIZES": False,
    "MODEL.RPN.STRADDLE_THRESH": -1,
    "MODEL.RPN.FG_IOU_THRESHOLD": 0.7,
    "MODEL.RPN.BG_IOU_THRESHOLD": 0.3,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.RPN.POSITIVE_FRACTION": 0.5,
    "MODEL.RPN.SMOOTH_L1_BETA": 0.0,
    "MODEL.RPN.LOSS_NORMALIZER": "batch_size",
    "MODEL.RPN.NMS_THRESH": 0.7,
    "MODEL.RPN.RANK_BY": "logits",
    "MODEL.RPN.MIN_SIZE": 0,
    "MODEL.RPN.FPN_POST_NMS_PER_BATCH": False,
    "MODEL.ROI_HEADS.FG_IOU_THRESHOLD": 0.5,
    "MODEL.ROI_HEADS.BG_IOU_THRESHOLD": 0.5,
    "MODEL.ROI_HEADS.BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 512,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.25,
    "MODEL.ROI_HEADS.SCORE_THRESH": 0.05,
    "MODEL.ROI_HEADS.NMS": 0.5,
    "MODEL.ROI_HEADS.DETECTIONS_PER_IMG": 100,
    "MODEL.ROI_HEADS.ORDER_BY": "score",
    "MODEL.ROI_HEADS.LEVEL_EPS": 1e-8,
    "MODEL.ROI_BOX_HEAD.POOLER_ALIGNED": True,
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 0,
    "MODEL.ROI_MASK_HEAD.POOLER_ALIGNED": True,
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": 0,
    "MODEL.ROI_MASK_HEAD.TARGET": "binary",
    "MODEL.ROI_MASK_HEAD.PASTE": "box",
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_ALIGNED": True,
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO": 0,
    "MODEL.ROI_KEYPOINT_HEAD.LOSS_NORMALIZER": "visible",
    "MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES": 17,
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 0.02,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.WEIGHT_DECAY": 0.0001,
    "SOLVER.WEIGHT_DECAY_BIAS": 0.0001,
    "SOLVER.WEIGHT_DECAY_NORM": 0.0,
    "SOLVER.BIAS_LR_FACTOR": 1,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.WARMUP_FACTOR": 0.001,
    "SOLVER.WARMUP_ITERS": 1000,
    "SOLVER.WARMUP_METHOD": "linear",
}
SCHEDULES = {"1x": ((60000, 80000), 90000), "3x": ((210000, 250000), 270000)}
FPN = {
    "MODEL.RPN.PRE_NMS_TOP_N_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOP_N_TEST": 1000,
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN": 1000,
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST": 1000,
    "MODEL.RPN.ANCHOR_STRIDE": (4, 8, 16, 32, 64),
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 1024,
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": 256,
    "DATALOADER.SIZE_DIVISIBILITY": 32,
}
ONE_LEVEL = {
    "MODEL.RPN.PRE_NMS_TOP_N_TRAIN": 12000,
    "MODEL.RPN.PRE_NMS_TOP_N_TEST": 6000,
    "MODEL.RPN.POST_NMS_TOP_N_TRAIN": 2000,
    "MODEL.RPN.POST_NMS_TOP_N_TEST": 1000,
    "MODEL.RPN.ANCHOR_STRIDE": (16,),
    "DATALOADER.SIZE_DIVISIBILITY": 0,
}
KEYPOINTS = {
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN": 1500,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.5,
    "MODEL.ROI_BOX_HEAD.NUM_CLASSES": 2,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS": (512,) * 8,
    "DATASETS.MIN_KEYPOINTS": 1,
}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_keys(path):
    cfg = load_config(path)
    expected = DEFAULTS | (FPN if "FPN" in path.stem else ONE_LEVEL)
    expected |= {"MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.0, "MODEL.ROI_BOX_HEAD.NUM_CLASSES": 81}
    expected |= KEYPOINTS if "keypoint" in path.stem else {}
    expected["MODEL.RESNETS.RES5_DILATION"] = 2 if "DC5" in path.stem else 1
    expected["SOLVER.STEPS"], expected["SOLVER.MAX_ITER"] = SCHEDULES[path.stem[-2:]]
    if "mask" in path.stem and "C4" not in path.stem:
        expected["MODEL.ROI_MASK_HEAD.CONV_LAYERS"] = (256,) * 4
    found = {key: reduce(getattr, key.split("."), cfg) for key in expected}
    assert found == expected


@torch.no_grad()
def models_of(name, image):
    kind, channels, num_classes, counts = CASES[name]
    options = ["MODEL.RESNETS.BACKBONE_OUT_CHANNELS", channels, "MODEL.ROI_BOX_HEAD.NUM_CLASSES", num_classes]
    cfg = load_config(CONFIGS / f"{name}.yaml", NARROW + options)
    torch.manual_seed(0)
    model = build_detection_model(cfg).eval()
    state = convert_file(model.state_dict(), "detectron2", conventions_of(model, cfg)).weights
    reference = peer.Detectron2Reference({key: value.clone() for key, value in state.items()}, kind, counts)
    reference.calibrate(reference.pixels(peer.resized(image, 160, 267)))
    report = load_state_dict(model, reference.state, cfg)
    assert report.family == "Detectron2" and not report.unused and not report.mis_shaped
    assert all("anchor_generator" in key for key in report.missing)
    return cfg, model, reference


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size_wh"), [(name, (640, 480)) for name in CASES] + [(next(iter(CASES)), (427, 640))]
)
@torch.no_grad()
def test_every_stage(name, size_wh):
    (image,) = fidelity.random_images([size_wh])
    cfg, model, reference = models_of(name, image)
    small = peer.resized(image, 160, 267)
    transformed, _ = build_transforms(cfg, is_train=False)(image)
    batch = to_image_list([transformed], cfg.DATALOADER.SIZE_DIVISIBILITY)
    assert batch.image_sizes == [(small.height, small.width)]
    pixels = reference.pixels(small)
    torch.testing.assert_close(batch.tensors, pixels, rtol=0, atol=1e-4)

    expected_features = reference.features(pixels)
    features = model.backbone(batch.tensors)
    for ours, theirs in zip(features, expected_features, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))

    expected_boxes, logits = reference.proposals(expected_features, small.size)
    (proposals,), _ = model.rpn(batch, features)
    assert len(proposals) == len(expected_boxes) > 100
    distances = torch.cdist(expected_boxes, proposals.bbox, p=float("inf"))
    assert distances.amin(1).max() < 1e-3 and distances.amin(0).max() < 1e-3
    torch.testing.assert_close(proposals.get_field("objectness"), logits.sigmoid(), rtol=0, atol=1e-5)

    boxes, scores, labels = reference.detections(expected_features, expected_boxes, small.size)
    (found,) = model.roi_heads(features, [proposals]).detections
    assert len(found) == len(boxes) > 10
    distances = torch.cdist(boxes, found.bbox, p=float("inf"))
    distances += 1e6 * (labels[:, None] + 1 != found.get_field("labels"))
    rows = distances.argmin(1)
    assert len(rows.unique()) == len(rows)
    found = found[rows]
    torch.testing.assert_close(found.bbox, boxes, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.get_field("scores"), scores, rtol=0, atol=1e-5)

    in_image = detections_in_image(found, image.size)
    expected_in_image = peer.in_image(boxes, small.size, image.size)
    torch.testing.assert_close(in_image.bbox, expected_in_image, rtol=0, atol=5e-3)
    masks = reference.masks(expected_features, boxes, labels)
    if masks is not None:
        torch.testing.assert_close(found.get_field("mask")[:, 0], masks, rtol=0, atol=1e-4)
        expected = peer.pasted(masks, expected_in_image, image.size)
        differs = image_masks(in_image, threshold=0.5) != (expected >= 0.5)
        assert expected.max() > 0.5 and not ((expected - 0.5).abs()[differs] > 1e-4).any()
    heatmaps = reference.heatmaps(expected_features, boxes)
    if heatmaps is not None:
        points = peer.keypoints(heatmaps, boxes) * torch.tensor(image.size) / torch.tensor(small.size)
        torch.testing.assert_close(in_image.get_field("keypoints").keypoints[..., :2], points, rtol=0, atol=1e-2)
