"""Small batches of RoIs, targets and configurations for the tests of the heads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from maskrcnn_benchmark.config import CfgNode, get_cfg
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import KEYPOINTS, LABELS, MASKS, SCORES, mask_fields
from maskrcnn_benchmark.structures.keypoint import Keypoints, PersonKeypoints
from maskrcnn_benchmark.structures.segmentation_mask import Polygons, SegmentationMask

STRIDES = (4, 8, 16, 32)
CHANNELS = 8


def small_cfg(*opts: object) -> CfgNode:
    """Mask, keypoint and refine heads on four levels of `CHANNELS` channels, narrow, for 5 classes and 17 keypoints."""
    cfg = get_cfg()
    scales = tuple(1 / stride for stride in STRIDES)
    cfg.merge_from_list(
        [
            *("MODEL.MASK_ON", True, "MODEL.KEYPOINT_ON", True, "MODEL.REFINE_ON", True),
            *("MODEL.ROI_HEADS.USE_FPN", True, "MODEL.ROI_BOX_HEAD.NUM_CLASSES", 5),
            *("MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR", "MaskRCNNFPNFeatureExtractor"),
            *("MODEL.ROI_MASK_HEAD.CONV_LAYERS", (8, 8), "MODEL.ROI_MASK_HEAD.POOLER_SCALES", scales),
            *("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 7, "MODEL.ROI_MASK_HEAD.RESOLUTION", 14),
            *("MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", 2),
            *("MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR", False),
            *("MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS", (8, 8), "MODEL.ROI_KEYPOINT_HEAD.POOLER_SCALES", scales),
            *("MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION", 6, "MODEL.ROI_KEYPOINT_HEAD.RESOLUTION", 24),
            *("MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO", 2),
            *("MODEL.ROI_KEYPOINT_HEAD.SHARE_BOX_FEATURE_EXTRACTOR", False),
            *("MODEL.ROI_REFINE_HEAD.POOLER_RESOLUTION", 8, "MODEL.ROI_REFINE_HEAD.CONV_DIM", 8),
            *("MODEL.ROI_REFINE_HEAD.POOLER_SCALES", scales, "MODEL.ROI_REFINE_HEAD.ROI_EXPAND", 1.3),
            *("MODEL.ROI_REFINE_HEAD.FEATURE_EXTRACTOR", "HourglassRefineFeatureExtractor"),
            *("MODEL.ROI_REFINE_HEAD.INDICATOR_FORM", "probability"),
            *opts,
        ]
    )
    return cfg


def feature_pyramid(num_images: int, size_wh: tuple[int, int], channels: int = CHANNELS) -> list[Tensor]:
    """Seeded random maps (N, channels, H / stride, W / stride) for every stride."""
    generator = torch.Generator().manual_seed(1)
    width, height = size_wh
    return [
        torch.randn(num_images, channels, -(-height // stride), -(-width // stride), generator=generator)
        for stride in STRIDES
    ]


def make_samples(
    boxes: Sequence[Sequence[float]],
    image_ids: Sequence[int],
    matched_idxs: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    labels: Sequence[int] | None = None,
) -> SampledProposals:
    """Positives, one per box."""
    box_tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    ids = torch.tensor(image_ids, dtype=torch.int64)
    return SampledProposals(
        rois=torch.cat([ids[:, None].float(), box_tensor], dim=1),
        image_ids=ids,
        boxes=box_tensor,
        labels=torch.tensor(labels if labels is not None else [1] * len(box_tensor), dtype=torch.int64),
        matched_idxs=torch.tensor(matched_idxs, dtype=torch.int64),
        regression_targets=torch.zeros_like(box_tensor),
        sizes=list(sizes),
        num_positives=len(box_tensor),
    )


def make_target(
    boxes: Sequence[Sequence[float]],
    polygons: Sequence[Sequence[Sequence[float]]],
    keypoints: np.ndarray | Tensor,
    size_wh: tuple[int, int],
    labels: Sequence[int] | None = None,
) -> BoxList:
    """Ground truth of one image: boxes (G, 4), polygons per instance, keypoints (G, K, 3)."""
    target = BoxList(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), size_wh)
    target.add_field(LABELS, torch.tensor(labels if labels is not None else [1] * len(boxes), dtype=torch.int64))
    target.add_field(MASKS, SegmentationMask([list(parts) for parts in polygons], size_wh))
    keypoints = torch.as_tensor(keypoints, dtype=torch.float32)
    kind = PersonKeypoints if keypoints.shape[1] == 17 else Keypoints
    target.add_field(KEYPOINTS, kind(keypoints, size_wh))
    return target


def person_batch() -> tuple[list[BoxList], SampledProposals]:
    """Two images of 96 x 64 with three quadrilateral "people" of classes 1, 3, 2, and five RoIs out of image order."""
    rng = np.random.default_rng(3)
    size = (96, 64)
    boxes = [[[10.0, 8.0, 40.0, 50.0], [50.0, 5.0, 90.0, 60.0]], [[20.0, 10.0, 70.0, 55.0]]]
    labels = [[1, 3], [2]]
    targets = []
    for boxes_per_image, labels_per_image in zip(boxes, labels, strict=True):
        polygons = [[[x1, y1 + 5, x2 - 7, y1, x2, y2 - 3, x1 + 4, y2]] for x1, y1, x2, y2 in boxes_per_image]
        keypoints = np.zeros((len(boxes_per_image), 17, 3))
        for points, (x1, y1, x2, y2) in zip(keypoints, boxes_per_image, strict=True):
            points[:, 0], points[:, 1] = rng.uniform(x1, x2, 17), rng.uniform(y1, y2, 17)
            points[:, 2] = rng.integers(0, 3, 17)
        targets.append(make_target(boxes_per_image, polygons, keypoints, size, labels_per_image))
    samples = make_samples(
        [[12, 10, 38, 45], [18, 12, 72, 50], [52, 3, 88, 58], [8, 6, 41, 49], [25, 8, 66, 57]],
        image_ids=[0, 1, 0, 0, 1],
        matched_idxs=[0, 0, 1, 0, 0],
        sizes=[size, size],
        labels=[1, 2, 3, 1, 2],
    )
    return targets, samples


def empty_samples(sizes: Sequence[tuple[int, int]]) -> SampledProposals:
    """A batch in which nothing was positive."""
    return make_samples([], [], [], sizes, [])


def make_detections(
    boxes: Sequence[Sequence[float]], labels: Sequence[int], size_wh: tuple[int, int], offset: int = 1
) -> BoxList:
    """Detections of one image as the box head leaves them."""
    detections = BoxList(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), size_wh, offset=offset)
    detections.add_field(LABELS, torch.tensor(labels, dtype=torch.int64))
    detections.add_field(SCORES, torch.linspace(0.9, 0.5, len(boxes)))
    return detections


def detection_batch(offset: int = 1) -> list[BoxList]:
    """Two images of 96 x 64: two detections and one, of classes 1, 3 and 2."""
    return [
        make_detections([[12, 10, 38, 45], [52, 3, 88, 58]], [1, 3], (96, 64), offset),
        make_detections([[18, 12, 72, 50]], [2], (96, 64), offset),
    ]


MULTI_MASK = "MODEL.ROI_MULTI_MASK_HEAD."


def multi_mask_cfg(*opts: object) -> CfgNode:
    """As `small_cfg`, with the masks "visible" and "amodal" in place of the plain one."""
    scales = tuple(1 / stride for stride in STRIDES)
    return small_cfg(
        *("MODEL.MASK_ON", False, "MODEL.MULTI_MASK_ON", True, MULTI_MASK + "CONV_LAYERS", (8, 8)),
        *(MULTI_MASK + "POOLER_SCALES", scales),
        *("MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "FPN2MLPFeatureExtractor", "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 16),
        *("MODEL.ROI_BOX_HEAD.PREDICTOR", "FPNPredictor", "MODEL.ROI_BOX_HEAD.POOLER_SCALES", scales),
        *(MULTI_MASK + "POOLER_RESOLUTION", 7, MULTI_MASK + "RESOLUTION", 14),
        *opts,
    )


def two_mask_batch(present: Sequence[Sequence[Sequence[bool]]] | None = None) -> tuple[list[BoxList], SampledProposals]:
    """`person_batch` with two masks: "visible", its polygons, and "amodal", the whole boxes.

    Args:
        present: [image][instance] -> (visible, amodal); None leaves out the field, which means that all are.
    """
    targets, samples = person_batch()
    for image, target in enumerate(targets):
        x1, y1, x2, y2 = target.bbox.unbind(1)
        rectangles = torch.stack([x1, y1, x2, y1, x2, y2, x1, y2], dim=1).tolist()
        truths = {
            "visible": target.get_field(MASKS),
            "amodal": SegmentationMask([[parts] for parts in rectangles], target.size),
        }
        for position, (name, masks) in enumerate(truths.items()):
            names = mask_fields(name)
            if present is not None:
                there = torch.tensor([instance[position] for instance in present[image]])
                target.add_field(names.present, there)
                kept = [
                    mask if is_there else Polygons(()) for mask, is_there in zip(masks.instances, there, strict=True)
                ]
                masks = SegmentationMask(kept, target.size)
            target.add_field(names.truth, masks)
    return targets, samples
