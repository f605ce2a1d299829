"""From the RPN's maps to proposals, and from class logits to detections."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torchvision
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers

from maskrcnn_benchmark.layers.boxes import encode_boxes, pairwise_iou
from maskrcnn_benchmark.modeling.box_coder import BoxCoder
from maskrcnn_benchmark.modeling.roi_heads.box_head.inference import PostProcessor
from maskrcnn_benchmark.modeling.rpn.anchor_generator import AnchorGenerator
from maskrcnn_benchmark.modeling.rpn.inference import RPNPostProcessor
from maskrcnn_benchmark.structures.bounding_box import BoxList
from op_cases.case import IMAGE_HW, Case, Contenders, Peer, random_boxes, same_boxes

STRIDES = (4, 8, 16, 32, 64)
SIZE_WH = (IMAGE_HW[1], IMAGE_HW[0])
NUM_CLASSES = 81
DELTA_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def cases(device: str) -> Iterator[Case]:
    for phase, top_n in (("test", 1000), ("training", 2000)):
        for images in (1, 8) if device == "cpu" else (1, 8, 16):
            yield Case(
                f"RPN selection, {images} image{'s' * (images > 1)}, {phase} (best {top_n})",
                partial(rpn_selection, device, images, top_n),
            )
    for images in (1, 8):
        yield Case(
            f"box post-processing, {images} image{'s' * (images > 1)}, 1000 proposals, {NUM_CLASSES} classes",
            partial(box_post_processing, device, images),
        )


def rpn_outputs(anchors: list[Tensor], images: int, device: str) -> tuple[list[Tensor], list[Tensor]]:
    """Maps (N, 3, H_l, W_l) and (N, 12, H_l, W_l) of a trained RPN: logits are largest for anchors on objects."""
    logits, deltas = [], []
    for anchors_l, stride in zip(anchors, STRIDES, strict=True):
        height, width = (-(-side // stride) for side in IMAGE_HW)
        maps = []
        for image in range(images):
            torch.manual_seed(image)
            objects = random_boxes(20)
            overlap, matched = pairwise_iou(objects, anchors_l, 0).max(dim=0)
            logit = 10 * overlap - 5 + torch.randn(len(anchors_l))
            delta = encode_boxes(objects[matched], anchors_l, (1.0,) * 4, 0) * (overlap > 0.3)[:, None]
            maps.append(torch.cat([logit[:, None], delta + 0.1 * torch.randn_like(delta)], dim=1))
        grid = torch.stack(maps).view(images, height, width, 3, 5)
        logits.append(grid[..., 0].permute(0, 3, 1, 2).contiguous().to(device))
        deltas.append(grid[..., 1:].flatten(3).permute(0, 3, 1, 2).contiguous().to(device))
    return logits, deltas


def rpn_selection(device: str, images: int, top_n: int) -> Contenders:
    generator = AnchorGenerator((32, 64, 128, 256, 512), (0.5, 1.0, 2.0), STRIDES, offset=0)
    anchors = generator([(-(-IMAGE_HW[0] // stride), -(-IMAGE_HW[1] // stride)) for stride in STRIDES])
    objectness, box_regression = rpn_outputs(anchors, images, device)
    anchors = [anchors_l.to(device) for anchors_l in anchors]
    selector = RPNPostProcessor(top_n, top_n, 0.7, 1e-3, box_coder=BoxCoder((1.0,) * 4, offset=0))
    limits = {"training": top_n, "testing": top_n}
    network = RegionProposalNetwork(None, None, 0.7, 0.3, 256, 0.5, limits, limits, 0.7)
    all_anchors, counts = torch.cat(anchors), [len(anchors_l) for anchors_l in anchors]

    def theirs() -> list[Tensor]:
        scores, deltas = concat_box_prediction_layers(objectness, box_regression)
        boxes = network.box_coder.decode(deltas, [all_anchors] * images).view(images, -1, 4)
        return network.filter_proposals(boxes, scores, [IMAGE_HW] * images, counts)[0]

    return Contenders(
        lambda: selector(anchors, objectness, box_regression, [SIZE_WH] * images),
        [Peer("torchvision", theirs, lambda mine, other: same_boxes([boxes.bbox for boxes in mine], other))],
    )


def box_outputs(images: int, device: str) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Class logits (R, J), deltas (R, 4 * J) and proposals: a third lies on objects, a few classes compete for each."""
    proposals, logits, deltas = [], [], []
    for _ in range(images):
        objects, classes = random_boxes(20), torch.randint(1, NUM_CLASSES, (20, 2))
        boxes, owner = random_boxes(1000), torch.randint(20, (1000,))
        on_object = torch.arange(1000) < 333
        jitter = torch.randn(1000, 4) * 0.1 * (objects[owner, 2:] - objects[owner, :2]).repeat(1, 2)
        boxes = torch.where(on_object[:, None], objects[owner] + jitter, boxes)
        boxes[:, 2:] = boxes[:, 2:].maximum(boxes[:, :2] + 1)
        logit = torch.randn(1000, NUM_CLASSES)
        logit[:, 0] += torch.where(on_object, 2.0, 8.0)
        logit.scatter_add_(1, classes[owner], on_object[:, None] * torch.tensor([7.0, 5.0]) * torch.rand(1000, 2))
        proposals.append(boxes.to(device))
        logits.append(logit)
        deltas.append(torch.randn(1000, 4 * NUM_CLASSES) * 0.5)
    return torch.cat(logits).to(device), torch.cat(deltas).to(device), proposals


def box_post_processing(device: str, images: int) -> Contenders:
    class_logits, box_regression, proposals = box_outputs(images, device)
    boxlists = [BoxList(boxes, SIZE_WH, offset=0) for boxes in proposals]
    processor = PostProcessor(0.05, 0.5, 100, box_coder=BoxCoder(DELTA_WEIGHTS, offset=0))
    heads = RoIHeads(None, None, None, 0.5, 0.5, 512, 0.25, DELTA_WEIGHTS, 0.05, 0.5, 100)

    def class_by_class() -> list[tuple[Tensor, Tensor, Tensor]]:
        """As maskrcnn-benchmark does it: a loop over images and classes, then the best of all classes."""
        results = []
        scores = class_logits.softmax(dim=1).split(1000)
        decoded = heads.box_coder.decode(box_regression, proposals).split(1000)
        for scores_i, boxes_i in zip(scores, decoded, strict=True):
            boxes_i = torchvision.ops.clip_boxes_to_image(boxes_i, IMAGE_HW)
            found = []
            for label in range(1, NUM_CLASSES):
                rows = (scores_i[:, label] > 0.05).nonzero().squeeze(1)
                boxes, values = boxes_i[rows, label], scores_i[rows, label]
                kept = torchvision.ops.nms(boxes, values, 0.5)
                found.append((boxes[kept], values[kept], torch.full_like(kept, label)))
            boxes, values, labels = (torch.cat(part) for part in zip(*found, strict=True))
            best = values.topk(min(100, len(values))).indices
            results.append((boxes[best], values[best], labels[best]))
        return results

    def table(boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        return torch.cat([boxes, scores[:, None], labels[:, None]], dim=1)

    def compare(mine: list[BoxList], theirs: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        ours = [table(found.bbox, found.get_field("scores"), found.get_field("labels")) for found in mine]
        same_boxes(ours, [table(*columns) for columns in theirs])

    return Contenders(
        lambda: processor(class_logits, box_regression, boxlists),
        [
            Peer(
                "torchvision",
                lambda: heads.postprocess_detections(class_logits, box_regression, proposals, [IMAGE_HW] * images),
                lambda mine, theirs: compare(mine, list(zip(*theirs, strict=True))),
            ),
            Peer("class by class", class_by_class, compare),
        ],
    )
