"""A detector small enough to train in a test: three feature levels, few channels, few proposals."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskrcnn_benchmark.config import CfgNode, get_cfg
from maskrcnn_benchmark.modeling.detector import GeneralizedRCNN
from maskrcnn_benchmark.modeling.roi_heads.roi_heads import CombinedROIHeads
from maskrcnn_benchmark.modeling.rpn.build import build_rpn
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import KEYPOINTS, LABELS, MASKS, mask_fields
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask
from maskrcnn_benchmark.utils.detector_kind import has_roi_heads

STRIDES = (4, 8, 16)
CHANNELS = 16


class TinyBackbone(nn.Module):
    """(N, 3, H, W) -> three maps of 16 channels at strides 4, 8 and 16, of any image size."""

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        self.out_channels = channels
        self.strides = STRIDES
        self.body = nn.Conv2d(3, channels, 7, stride=4, padding=3)
        self.down = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in STRIDES[1:])

    def forward(self, images: Tensor) -> list[Tensor]:
        features = [F.relu(self.body(images))]
        for layer in self.down:
            features.append(F.relu(layer(features[-1])))
        return features


def tiny_cfg(*opts: object) -> CfgNode:
    """Boxes alone, for three classes with the background; `opts` are keys and values on top."""
    cfg = get_cfg()
    scales = tuple(1 / stride for stride in STRIDES)
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu"),
            *("MODEL.RPN.USE_FPN", True, "MODEL.RPN.ANCHOR_STRIDE", STRIDES, "MODEL.RPN.ANCHOR_SIZES", (12, 24, 48)),
            *("MODEL.RPN.PRE_NMS_TOP_N_TRAIN", 50, "MODEL.RPN.PRE_NMS_TOP_N_TEST", 50),
            *("MODEL.RPN.POST_NMS_TOP_N_TRAIN", 30, "MODEL.RPN.POST_NMS_TOP_N_TEST", 20),
            *("MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN", 60, "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST", 30),
            *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 64, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32),
            *("MODEL.ROI_HEADS.USE_FPN", True, "MODEL.ROI_BOX_HEAD.NUM_CLASSES", 3),
            *("MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "FPN2MLPFeatureExtractor"),
            *("MODEL.ROI_BOX_HEAD.PREDICTOR", "FPNPredictor", "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 32),
            *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 5, "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 2),
            *("MODEL.ROI_BOX_HEAD.POOLER_SCALES", scales),
            *("MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR", "MaskRCNNFPNFeatureExtractor"),
            *("MODEL.ROI_MASK_HEAD.CONV_LAYERS", (16,), "MODEL.ROI_MASK_HEAD.POOLER_SCALES", scales),
            *("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 7, "MODEL.ROI_MASK_HEAD.RESOLUTION", 14),
            *("MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR", False),
            *("MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS", (16,), "MODEL.ROI_KEYPOINT_HEAD.POOLER_SCALES", scales),
            *("MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION", 6, "MODEL.ROI_KEYPOINT_HEAD.RESOLUTION", 24),
            *("MODEL.ROI_KEYPOINT_HEAD.SHARE_BOX_FEATURE_EXTRACTOR", False),
            *("MODEL.ROI_REFINE_HEAD.POOLER_SCALES", scales, "MODEL.ROI_REFINE_HEAD.POOLER_RESOLUTION", 8),
            *("MODEL.ROI_REFINE_HEAD.CONV_DIM", 16),
            *opts,
        ]
    )
    return cfg


RETINANET = (
    *("MODEL.RETINANET_ON", True, "MODEL.RPN_ONLY", True, "MODEL.RETINANET.NUM_CLASSES", 3),
    *("MODEL.RETINANET.ANCHOR_STRIDES", STRIDES, "MODEL.RETINANET.ANCHOR_SIZES", (12, 24, 48)),
    *("MODEL.RETINANET.NUM_CONVS", 1, "MODEL.RETINANET.PRE_NMS_TOP_N", 50, "TEST.DETECTIONS_PER_IMG", 20),
)
ALL_HEADS = ("MODEL.MASK_ON", True, "MODEL.KEYPOINT_ON", True, "MODEL.REFINE_ON", True)

TWO_MASKS = (
    *("MODEL.MULTI_MASK_ON", True, "MODEL.ROI_MULTI_MASK_HEAD.CONV_LAYERS", (16,)),
    *("MODEL.ROI_MULTI_MASK_HEAD.POOLER_SCALES", tuple(1 / stride for stride in STRIDES)),
    *("MODEL.ROI_MULTI_MASK_HEAD.POOLER_RESOLUTION", 7, "MODEL.ROI_MULTI_MASK_HEAD.RESOLUTION", 14),
    *(
        "MODEL.ROI_MULTI_MASK_HEAD.INSIDE",
        (("visible", "amodal"),),
        "MODEL.ROI_MULTI_MASK_HEAD.LOSS_WEIGHT_INSIDE",
        1.0,
    ),
)
REFINED_MASKS = (
    *(*TWO_MASKS, "MODEL.REFINE_ON", True, "MODEL.ROI_REFINE_HEAD.OUTPUTS", ("visible", "amodal")),
    *("MODEL.ROI_REFINE_HEAD.INDICATORS", ("visible", "amodal")),
)


def tiny_detector(cfg: CfgNode) -> GeneralizedRCNN:
    learns = not cfg.MODEL.ROI_REFINE_HEAD.FREEZE_DETECTOR
    return GeneralizedRCNN(
        TinyBackbone(),
        build_rpn(cfg, CHANNELS, learns=learns),
        CombinedROIHeads.from_cfg(cfg, CHANNELS, learns=learns) if has_roi_heads(cfg) else None,
        size_divisible=cfg.DATALOADER.SIZE_DIVISIBILITY,
        only_refine_learns=not learns,
    )


def tiny_target(boxes: Sequence[Sequence[float]], size_wh: tuple[int, int], offset: int = 1) -> BoxList:
    """Ground truth whose masks fill the boxes and whose keypoints lie within them; labels 1 and 2 in turn."""
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    target = BoxList(tensor, size_wh, offset=offset)
    target.add_field(LABELS, 1 + torch.arange(len(tensor)) % 2)
    target.add_field(MASKS, SegmentationMask([[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes], size_wh))
    spread = torch.linspace(0.1, 0.9, 17)[None, :, None]
    points = tensor[:, None, :2] + spread * (tensor[:, None, 2:] - tensor[:, None, :2])
    points = torch.cat([points, torch.full((len(tensor), 17, 1), 2.0)], dim=2)
    target.add_field(KEYPOINTS, PersonKeypoints(points, size_wh))
    return target


def add_two_masks(target: BoxList) -> None:
    """The masks of `TWO_MASKS`: all instances have the mask "amodal", every second one the mask "visible"."""
    for name in ("visible", "amodal"):
        target.add_field(mask_fields(name).truth, target.get_field(MASKS))
    target.add_field(mask_fields("visible").present, torch.arange(len(target)) % 2 == 0)


def tiny_batch(offset: int = 1) -> tuple[list[Tensor], list[BoxList]]:
    """Two images of different sizes with bright and dark rectangles, and their ground truth."""
    generator = torch.Generator().manual_seed(5)
    images, targets = [], []
    for (width, height), boxes in (
        ((96, 64), [[8, 8, 39, 47], [52, 20, 83, 59]]),
        ((72, 80), [[20, 12, 59, 63]]),
    ):
        image = 0.1 * torch.randn(3, height, width, generator=generator)
        for index, (x1, y1, x2, y2) in enumerate(boxes):
            image[:, y1 : y2 + 1, x1 : x2 + 1] += 1.0 if index % 2 == 0 else -1.0
        images.append(image)
        targets.append(tiny_target(boxes, (width, height), offset))
    return images, targets
