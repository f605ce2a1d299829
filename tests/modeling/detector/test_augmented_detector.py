"""Test-time augmentation: exact with one view, unchanged by mirroring a symmetric network, boxes and maps in place."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import batched_nms

from maskrcnn_benchmark.config import ConfigError
from maskrcnn_benchmark.layers.candidates import ClassCandidates
from maskrcnn_benchmark.modeling.batching import image_ids_of
from maskrcnn_benchmark.modeling.detector import AugmentedDetector, GeneralizedRCNN, find_augmentation_problems
from maskrcnn_benchmark.modeling.detector.augmented_detector import _View
from maskrcnn_benchmark.modeling.roi_heads.mask_head.inference import Masker
from maskrcnn_benchmark.modeling.roi_heads.outputs import OutputLogits, attach_rows
from maskrcnn_benchmark.modeling.roi_heads.roi_head import ROIHead
from maskrcnn_benchmark.modeling.roi_heads.roi_heads import CombinedROIHeads
from maskrcnn_benchmark.modeling.rpn.rpn import RPNModule
from maskrcnn_benchmark.structures.bounding_box import FLIP_LEFT_RIGHT
from maskrcnn_benchmark.structures.boxlist_ops import cat_boxlist
from maskrcnn_benchmark.structures.fields import KEYPOINTS, LABELS, MASK, SCORES
from maskrcnn_benchmark.structures.image_list import to_image_list
from maskrcnn_benchmark.structures.image_views import ImageViews, ViewSize, mirror_images
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from tests.devices import DEVICES
from tests.modeling.detector.test_predict_on_boxes import HEADS, Age, SidelessAge, assert_same, detector
from tests.modeling.tiny import ALL_HEADS, CHANNELS, RETINANET, STRIDES, tiny_batch, tiny_cfg

BOTH = (False, True)


def resized(images, factor):
    sides = [(round(image.shape[-2] * factor), round(image.shape[-1] * factor)) for image in images]
    return [F.interpolate(image[None], side, mode="bilinear")[0] for image, side in zip(images, sides, strict=True)]


def in_views(images, factors=(1.0,), flips=(False,), size_divisible=0):
    batches = [images if factor == 1 else resized(images, factor) for factor in factors]
    lists = tuple(to_image_list(batch, size_divisible) for batch in batches)
    return ImageViews(lists, (flips,) * len(lists))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("heads", HEADS)
def test_one_view_gives_exactly_what_the_model_gives(heads, offset, device):
    model = detector(*HEADS[heads], "MODEL.BOX_OFFSET", offset).to(device)
    images = tiny_batch()[0]
    with torch.no_grad():
        expected = model([image.to(device) for image in images])
    assert all(len(boxes) for boxes in expected)
    assert_same(AugmentedDetector(model)(in_views(images), device), expected)


RETINANET_OPTS = (*RETINANET, "MODEL.RETINANET.PRIOR_PROB", 0.2, "MODEL.BOX_OFFSET", 0)


@pytest.mark.parametrize("device", DEVICES)
def test_one_view_of_retinanet(device):
    model = detector(*RETINANET_OPTS).to(device)
    images = tiny_batch()[0]
    with torch.no_grad():
        expected = model([image.to(device) for image in images])
    assert all(len(boxes) for boxes in expected)
    assert_same(AugmentedDetector(model)(in_views(images), device), expected)


def test_views_of_retinanet_are_suppressed_together():
    """Against all boxes of the model in each view on its own, without suppression, then torchvision's NMS."""
    model = detector(*RETINANET_OPTS)
    images = tiny_batch()[0]
    views = in_views(images, (1.0, 1.5), BOTH)
    found = AugmentedDetector(model)(views, "cpu")
    selector = model.rpn.selector_test
    limits = selector.nms_thresh, selector.detections_per_img
    selector.nms_thresh, selector.detections_per_img = 0.0, 0
    candidates = [[], []]
    for batch, mirrored in views.views:
        shown = mirror_images(batch) if mirrored else batch
        with torch.no_grad():
            for index, boxes in enumerate(model(shown)):
                boxes = boxes.transpose(FLIP_LEFT_RIGHT) if mirrored else boxes
                candidates[index].append(boxes.resize(found[index].size))
    for ours, parts in zip(found, candidates, strict=True):
        merged = cat_boxlist(parts)
        boxes, scores, labels = merged.bbox, merged.get_field(SCORES), merged.get_field(LABELS)
        keep = batched_nms(boxes, scores, labels, limits[0])[: limits[1]]
        assert len(ours) == len(keep) > 5
        torch.testing.assert_close(ours.get_field(SCORES), scores[keep])
        torch.testing.assert_close(ours.bbox, boxes[keep], rtol=0, atol=1e-3)
        assert torch.equal(ours.get_field(LABELS), labels[keep])


# A network that does not care about left and right


class SymmetricBackbone(nn.Module):
    """Three maps whose cells are centred in their pixels, so that mirrored images have mirrored maps."""

    out_channels, strides = CHANNELS, STRIDES

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, CHANNELS, 4, stride=4)
        self.down = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 2, stride=2) for _ in STRIDES[1:])

    def forward(self, images):
        features = [F.relu(self.body(images))]
        for layer in self.down:
            features.append(F.relu(layer(features[-1])))
        return features


@torch.no_grad()
def symmetrize(model):
    """Mirrored kernels, no shifts in x, and the same weights for left and right keypoints."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.weight.copy_((module.weight + module.weight.flip(-1)) / 2)
    extractor = model.roi_heads["box"].feature_extractor
    first = next(module for module in extractor.modules() if isinstance(module, nn.Linear))
    weight = first.weight.reshape(len(first.weight), CHANNELS, 5, 5)
    first.weight.copy_(((weight + weight.flip(-1)) / 2).flatten(1))
    for layer in (model.rpn.head.bbox_pred, model.roi_heads["box"].predictor.bbox_pred):
        layer.weight[0::4] = 0
        layer.bias[0::4] = 0
    order = torch.tensor(PersonKeypoints.FLIP_INDS)
    for module in model.roi_heads.modules():
        if not isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            continue
        out_axis = 0 if isinstance(module, nn.Conv2d) else 1
        if module.weight.shape[out_axis] == 17:  # heat maps
            module.weight.copy_((module.weight + module.weight.index_select(out_axis, order)) / 2)
            module.bias.copy_((module.bias + module.bias[order]) / 2)
        if module.weight.shape[1 - out_axis] == CHANNELS + 18:  # the trunk reads features, a mask and heat maps
            swapped = torch.cat([torch.arange(CHANNELS + 1), order + CHANNELS + 1])
            module.weight.copy_((module.weight + module.weight.index_select(1 - out_axis, swapped)) / 2)


def symmetric_detector():
    sections = ("BOX", "MASK", "KEYPOINT", "REFINE")
    aligned = [entry for name in sections for entry in (f"MODEL.ROI_{name}_HEAD.POOLER_ALIGNED", True)]
    trunk = ("MODEL.ROI_REFINE_HEAD.FEATURE_EXTRACTOR", "ConvRefineFeatureExtractor")  # without strides of 2
    cfg = tiny_cfg(*ALL_HEADS, *trunk, "MODEL.BOX_OFFSET", 0, "MODEL.ROI_HEADS.SCORE_THRESH", 0.2, *aligned)
    torch.manual_seed(3)
    parts = RPNModule.from_cfg(cfg, CHANNELS), CombinedROIHeads.from_cfg(cfg, CHANNELS)
    model = GeneralizedRCNN(SymmetricBackbone(), *parts).eval()
    symmetrize(model)
    return model


def in_order(boxes):
    """Detections by label, then position: scores of mirrored views differ in the last digits."""
    keys = [
        (int(label), *map(round, row)) for label, row in zip(boxes.get_field(LABELS), boxes.bbox.tolist(), strict=True)
    ]
    return boxes[sorted(range(len(boxes)), key=keys.__getitem__)]


def test_mirroring_changes_nothing_for_a_symmetric_network():
    model = symmetric_detector()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # the refine head starts without corrections
        for parameter in model.roi_heads["refine"].predictor.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    symmetrize(model)
    images = [tiny_batch()[0][0], torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(2))]
    with torch.no_grad():
        expected = model(images)
    found = AugmentedDetector(model)(in_views(images, flips=BOTH), "cpu")
    for ours, theirs in zip(map(in_order, found), map(in_order, expected), strict=True):
        assert ours.fields() == theirs.fields() and len(ours) == len(theirs) > 5
        torch.testing.assert_close(ours.bbox, theirs.bbox, rtol=0, atol=1e-3)
        torch.testing.assert_close(ours.get_field(SCORES), theirs.get_field(SCORES), rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.get_field(MASK), theirs.get_field(MASK), rtol=0, atol=1e-4)
        points, expected_points = (boxes.get_field(KEYPOINTS).keypoints for boxes in (ours, theirs))
        same = ((points - expected_points).abs().amax(-1) < 0.05).float().mean()
        assert same > 0.98, "a tie between two cells may be decided either way"
        assert len(theirs) > 0 and theirs.get_field(MASK).std() > 0.01


# Boxes and maps where they belong


def find_rectangle(image, offset):
    """(1, 4) box of the bright pixels of an image (3, H, W)."""
    rows, columns = (image[0] > 0.5).nonzero().unbind(1)
    corners = [columns.min(), rows.min(), columns.max() + 1 - offset, rows.max() + 1 - offset]
    return torch.stack(corners).float()[None]


class Finder:
    """In place of the box head's search: the rectangle of each image, and the images that it was shown."""

    def __init__(self, offset):
        self.offset, self.shown = offset, []

    def __call__(self, features, proposals):
        images, sizes = features
        self.shown.append(tuple(images.shape[-2:]))
        boxes = [find_rectangle(image[:, :h, :w], self.offset) for image, (h, w) in zip(images, sizes, strict=True)]
        ones = torch.ones(len(boxes))
        return ClassCandidates(torch.cat(boxes), 0.9 * ones, ones.long(), image_ids_of([1] * len(boxes), ones.device))


@pytest.mark.parametrize("offset", [0, 1])
def test_boxes_of_all_views_agree_to_half_a_pixel(offset, monkeypatch):
    model = detector("MODEL.BOX_OFFSET", offset, "MODEL.ROI_HEADS.NMS", 0.0)
    images, expected = [], []
    for (width, height), (x1, y1, x2, y2) in (((96, 64), (12, 8, 44, 40)), ((64, 80), (4, 20, 28, 64))):
        image = torch.zeros(3, height, width)
        image[:, y1:y2, x1:x2] = 1
        images.append(image)
        expected.append(torch.tensor([x1, y1, x2 - offset, y2 - offset]))
    views = in_views(images, factors=(1.0, 0.5, 2.0, 1.5), flips=BOTH, size_divisible=16)
    augmented = AugmentedDetector(model)
    finder = Finder(offset)
    monkeypatch.setattr(model.roi_heads["box"], "find_candidates", finder)
    sizes = iter([batch.image_sizes for batch, _ in views.views])
    monkeypatch.setattr(model.backbone, "forward", lambda batch: (batch, next(sizes)))
    monkeypatch.setattr(model.rpn, "forward", lambda images, features: (None, {}))
    found = augmented(views, "cpu")
    assert finder.shown == [(80, 96)] * 2 + [(48, 48)] * 2 + [(160, 192)] * 2 + [(128, 144)] * 2, "batches of views"
    for boxes, truth in zip(found, expected, strict=True):
        assert len(boxes) == 8 and boxes.offset == offset
        # a view in half the size knows an inclusive corner to a pixel of its own
        assert (boxes.bbox - truth).abs().max() <= 0.5 + 0.5 * offset
        assert (boxes.bbox[:2] - truth).abs().max() == 0


def test_masks_and_keypoints_are_averaged_and_drawn_in_place(monkeypatch):
    """A triangle whose corner is a keypoint of the left side; in a mirrored image it would be one of the right."""
    model = detector(*ALL_HEADS[:4], "MODEL.BOX_OFFSET", 0, "MODEL.ROI_HEADS.NMS", 0.5)
    wrists = [PersonKeypoints.NAMES.index(f"{side}_wrist") for side in ("left", "right")]
    image = torch.zeros(3, 64, 96)
    for row in range(32):
        image[:, 16 + row, 20 : 21 + row] = 1  # right-angled, the right angle at the lower left
    finder = Finder(0)
    views = in_views([image], factors=(1.0, 2.0), flips=BOTH)
    calls = []
    mask, keypoint = (model.roi_heads[name].outputs[name] for name in ("mask", "keypoint"))

    def predict_logits(features, boxes, only):
        pixels, _ = features
        mirrored = bool(pixels[0, 0, :, : pixels.shape[-1] // 2].sum() < pixels[0, 0].sum() / 2)
        calls.append((pixels.shape[-1], mirrored))
        x1, y1, x2, y2 = boxes[0].bbox[0].round().int().tolist()
        crop = F.interpolate(pixels[:1, :1, y1:y2, x1:x2], (28, 28), mode="area")
        maps = torch.zeros(1, 17, 24, 24)
        wrist = wrists[1] if mirrored else wrists[0]
        maps[0, wrist, -1, -1 if mirrored else 0] = 9  # the right angle
        shape = (len(boxes[0]), -1, -1, -1)
        return [OutputLogits(mask, (crop * 12 - 6).expand(shape)), OutputLogits(keypoint, maps.expand(shape))]

    monkeypatch.setattr(model.roi_heads["box"], "find_candidates", finder)
    monkeypatch.setattr(model.roi_heads, "predict_logits", predict_logits)
    monkeypatch.setattr(model.backbone, "forward", lambda batch: (batch, [batch.shape[-2:]] * len(batch)))
    monkeypatch.setattr(model.rpn, "forward", lambda images, features: (None, {}))
    (found,) = AugmentedDetector(model)(views, "cpu")
    assert calls == [(192, True), (192, False), (96, True), (96, False)]
    assert len(found) == 1, "the boxes of the views suppress each other"
    (drawn,) = Masker(0.5)([found.get_field(MASK)], [found])
    different = (drawn[0, 0] != (image[0] > 0)).sum()
    assert different <= 40 and drawn.sum() > 400, "only the slanted side is uncertain"
    points = found.get_field(KEYPOINTS).keypoints[0]
    assert (points[wrists[0], :2] - torch.tensor([20.0, 47.0])).abs().max() < 2


# Batches, nothing found, memory


def test_a_batch_of_two_sizes_equals_single_images():
    model = detector(*ALL_HEADS, "MODEL.ROI_HEADS.SCORE_THRESH", 0.3)
    images = [torch.randn(3, 64, 96), torch.randn(3, 64, 80)]
    augmented, options = AugmentedDetector(model), {"factors": (1.0, 0.5), "flips": BOTH}
    batch = augmented(in_views(images, **options), "cpu")
    for index, image in enumerate(images):
        # the padding of the batch reaches into the maps of an image, so a blank image pads the single one
        blank = [] if index == 0 else [torch.zeros(3, 64, 96)]
        alone = augmented(in_views([image, *blank], **options), "cpu")[0]
        assert len(alone) == len(batch[index]) > 0
        torch.testing.assert_close(alone.bbox, batch[index].bbox, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(alone.get_field(MASK), batch[index].get_field(MASK), rtol=1e-3, atol=1e-4)


def test_more_views_change_the_results():
    model, images = detector(*ALL_HEADS), tiny_batch()[0]
    augmented = AugmentedDetector(model)
    plain, more = (augmented(in_views(images, (1.0, 0.5), flips), "cpu")[0] for flips in ((False,), BOTH))
    assert len(plain) != len(more) or not torch.equal(plain.bbox, more.bbox)
    assert more.fields() == plain.fields()


@pytest.mark.parametrize("heads", HEADS)
def test_nothing_found(heads):
    model = detector(*HEADS[heads], "MODEL.ROI_HEADS.SCORE_THRESH", 0.99)
    images = tiny_batch()[0]
    with torch.no_grad():
        expected = model(images)
    found = AugmentedDetector(model)(in_views(images, (1.0, 0.5), BOTH), "cpu")
    assert [len(boxes) for boxes in found] == [0, 0]
    assert_same(found, expected)


def test_one_image_without_detections_beside_one_with_some():
    model = detector(*ALL_HEADS, "MODEL.ROI_HEADS.DETECTIONS_PER_IMG", 3)
    images = tiny_batch()[0]
    select = model.roi_heads["box"].post_processor.select

    def drop_first(candidates, sizes):
        first, second = select(candidates, sizes)
        return [first[[]], second]

    model.roi_heads["box"].post_processor.select = drop_first
    first, second = AugmentedDetector(model)(in_views(images, flips=BOTH), "cpu")
    assert len(first) == 0 and len(second) == 3 and first.fields() == second.fields()


def test_the_features_of_one_view_at_a_time():
    model, alive, most = detector(*ALL_HEADS), [], []
    original = model.backbone.forward

    def forward(images):
        most.append(sum(reference() is not None for reference in alive))
        features = original(images)
        alive.extend(map(weakref.ref, features[:1]))
        return features

    model.backbone.forward = forward
    AugmentedDetector(model)(in_views(tiny_batch()[0], (1.0, 0.5), BOTH), "cpu")
    assert most == [0] * 7, "four views, and three again; never features of another view beside"


# What cannot be augmented


class OwnForward(GeneralizedRCNN):
    def forward(self, images, targets=None):
        return super().forward(images, targets)


class OwnHead(ROIHead):
    NAME = "own"

    def forward(self, *args):
        return super().forward(*args)


class WrittenAge(SidelessAge):
    def attach(self, logits, detections):
        return attach_rows(detections, "ages", logits[:, 0])


def with_head(head_class, *kinds):
    model = detector("MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 32)
    extractor = model.roi_heads["box"].feature_extractor
    head = head_class(extractor, nn.Linear(32, 1), outputs=kinds, feature_channels=32)
    model.roi_heads["own"] = head
    return model


def test_detectors_that_cannot_be_augmented_are_refused():
    mirrored = [ViewSize(800, 1333, BOTH)]
    plain = [ViewSize(800, 1333)]
    assert find_augmentation_problems(detector(*ALL_HEADS), mirrored) == []
    (problem,) = find_augmentation_problems(nn.Linear(1, 1), plain)
    assert "Linear has a `forward` of its own" in problem
    model = detector()
    model.__class__ = OwnForward
    assert "OwnForward has a `forward` of its own" in find_augmentation_problems(model)[0]
    assert "predicts only proposals" in find_augmentation_problems(detector("MODEL.RPN_ONLY", True))[0]
    assert find_augmentation_problems(detector(*RETINANET_OPTS), mirrored) == []
    with pytest.raises(ConfigError, match="predicts only proposals"):
        AugmentedDetector(detector("MODEL.RPN_ONLY", True))
    (problem,) = find_augmentation_problems(with_head(OwnHead, WrittenAge()), mirrored)
    assert "override `predict` in OwnHead" in problem


def test_outputs_without_sides_are_refused_only_if_views_are_mirrored():
    model = with_head(type("Head", (ROIHead,), {"NAME": "own"}), Age())
    assert find_augmentation_problems(model, [ViewSize(800, 1333)]) == []
    (problem,) = find_augmentation_problems(model, [ViewSize(800, 1333, BOTH)])
    assert "the output 'age' does not say" in problem and "set H_FLIP and SCALE_H_FLIP to False" in problem


def test_an_output_of_your_own_is_averaged():
    model = with_head(type("Head", (ROIHead,), {"NAME": "own"}), WrittenAge())
    images = tiny_batch()[0]
    found = AugmentedDetector(model)(in_views(images, flips=BOTH), "cpu")
    box = found[0].copy_with_fields([SCORES, LABELS])
    view = _View(to_image_list(images), True, torch.device("cpu"))
    plain = model.predict_on_boxes(images[:1], [box])[0].get_field("ages")
    mirrored = model.predict_on_boxes([images[0].flip(-1)], view.place([box, found[1]])[:1])[0].get_field("ages")
    # the padding of the batch reaches into the images, by little
    torch.testing.assert_close(found[0].get_field("ages"), (plain + mirrored) / 2, rtol=0, atol=0.05)
    assert (plain - mirrored).abs().max() > 0
