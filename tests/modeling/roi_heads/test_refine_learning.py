"""The heads learn, and refined results are the better ones where the RoI cuts the object and the features show it."""

import numpy as np
import pytest
import torch
from torch import Tensor

from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.keypoint_head import KeypointHead
from maskrcnn_benchmark.modeling.roi_heads.mask_head.inference import Masker
from maskrcnn_benchmark.modeling.roi_heads.mask_head.mask_head import MaskHead
from maskrcnn_benchmark.modeling.roi_heads.refine_head.refine_head import build_roi_refine_head
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import COARSE_KEYPOINTS, COARSE_MASK, KEYPOINTS, MASK
from tests.modeling.roi_heads.head_cases import make_detections, make_samples, make_target, small_cfg

SIZE = (96, 96)
NUM_KEYPOINTS = 3
IMAGES = 8


def make_scenes(seed: int) -> tuple[list[Tensor], list[BoxList], Tensor, np.ndarray]:
    """Images of one tilted rectangle each, with keypoints at three of its corners; the features show both.

    Returns: one level of features (N, 5, 24, 24), targets, boxes (N, 4) that cut a tenth off every side, and
        masks (N, H, W).
    """
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[0 : SIZE[1], 0 : SIZE[0]] + 0.5
    features, targets, boxes, masks = [], [], [], []
    for _ in range(IMAGES):
        centre, angle = rng.uniform(40, 56, 2), rng.uniform(0, np.pi)
        half = rng.uniform([16, 8], [24, 12])
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        corners = centre + np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half @ turn.T
        local = np.stack([xs - centre[0], ys - centre[1]], axis=-1) @ turn
        mask = (np.abs(local) <= half).all(axis=-1)
        bumps = [np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 32) for x, y in corners[:NUM_KEYPOINTS]]
        maps = np.stack([mask, *bumps, rng.normal(size=mask.shape)])
        features.append(maps.reshape(5, 24, 4, 24, 4).mean(axis=(2, 4)))
        x1, y1, x2, y2 = *corners.min(axis=0), *corners.max(axis=0)
        keypoints = np.concatenate([corners[:NUM_KEYPOINTS], np.full((NUM_KEYPOINTS, 1), 2)], axis=1)[None]
        targets.append(make_target([[x1, y1, x2, y2]], [[corners.ravel().tolist()]], keypoints, SIZE))
        w, h = x2 - x1, y2 - y1
        boxes.append([x1 + 0.1 * w, y1 + 0.1 * h, x2 - 0.1 * w, y2 - 0.1 * h])
        masks.append(mask)
    return [torch.tensor(np.stack(features)).float()], targets, torch.tensor(boxes).float(), np.stack(masks)


@pytest.mark.slow
def test_refined_results_reach_beyond_the_box_where_coarse_ones_cannot():
    scales = (0.25,)
    cfg = small_cfg(
        *("MODEL.BOX_OFFSET", 0, "MODEL.ROI_BOX_HEAD.NUM_CLASSES", 2),
        *("MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", NUM_KEYPOINTS, "MODEL.ROI_KEYPOINT_HEAD.POOLER_SCALES", scales),
        *("MODEL.ROI_MASK_HEAD.POOLER_SCALES", scales, "MODEL.ROI_REFINE_HEAD.POOLER_SCALES", scales),
        *("MODEL.ROI_REFINE_HEAD.POOLER_RESOLUTION", 14, "MODEL.ROI_REFINE_HEAD.CONV_DIM", 16),
        *("MODEL.ROI_REFINE_HEAD.RESCORE", False),
    )
    torch.manual_seed(0)
    mask, keypoint = MaskHead.from_cfg(cfg, 5), KeypointHead.from_cfg(cfg, 5)
    refine = build_roi_refine_head(cfg, 5)
    heads = torch.nn.ModuleList([mask, keypoint, refine])
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.01)
    for step in range(150):
        features, targets, boxes, _ = make_scenes(step)
        samples = make_samples(boxes.tolist(), range(IMAGES), [0] * IMAGES, [SIZE] * IMAGES)
        masks, keypoints = mask(features, samples, targets), keypoint(features, samples, targets)
        refined = refine(features, samples, targets, branches={"mask": masks, "keypoint": keypoints})
        loss = sum((masks.losses | keypoints.losses | refined.losses).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    heads.eval()
    features, targets, boxes, truth = make_scenes(10_000)
    detections = [make_detections([box], [1], SIZE, offset=0) for box in boxes.tolist()]
    with torch.no_grad():
        masks = mask(features, detections)
        keypoints = keypoint(features, masks.detections)
        results = refine(features, keypoints.detections, branches={"mask": masks, "keypoint": keypoints}).detections
    ious, errors = {MASK: [], COARSE_MASK: []}, {KEYPOINTS: [], COARSE_KEYPOINTS: []}
    for result, target, shown in zip(results, targets, truth, strict=True):
        plain = result.copy_with_fields([])  # coarse masks span the detection's own box
        for name, spanned in ((MASK, result), (COARSE_MASK, plain)):
            pasted = Masker(0.5)(result.get_field(name), spanned)[0][0, 0].numpy()
            ious[name].append((pasted & shown).sum() / (pasted | shown).sum())
        points = target.get_field(KEYPOINTS).keypoints[0, :, :2]
        for name in errors:
            distances = (result.get_field(name).keypoints[0, :, :2] - points).norm(dim=1)
            errors[name].extend(distances.tolist())
    # what a mask inside the box can reach at most is about 0.86
    assert np.mean(ious[MASK]) > 0.88 and np.mean(ious[MASK]) > np.mean(ious[COARSE_MASK]) + 0.04
    # the corners lie outside the box, so the coarse branch has no targets for them
    assert np.median(errors[KEYPOINTS]) < 1 < 4 < np.median(errors[COARSE_KEYPOINTS])
