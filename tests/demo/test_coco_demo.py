"""COCODemo against the drawing module, and upstream's arguments, which take effect."""

import cv2
import numpy as np
import pytest
import torch
from predictor import COCODemo

from maskrcnn_benchmark import drawing
from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.drawing import draw_instances
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import to_image_list
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints


@pytest.fixture(scope="module")
def cfg(model_files):
    config, weights = model_files
    return load_config(config, ["MODEL.WEIGHT", str(weights)])


@pytest.fixture(scope="module")
def demo(cfg):
    return COCODemo(cfg, confidence_threshold=0.3, min_image_size=64)


@pytest.fixture
def image(people):
    return cv2.resize(people[0][0], (128, 96))


def known_detections():
    """Two boxes on a 128 x 96 image, the worse one first."""
    detections = BoxList([[10.0, 20.0, 50.0, 80.0], [60.0, 30.0, 110.0, 90.0]], (128, 96), offset=0)
    detections.add_field(fields.SCORES, torch.tensor([0.4, 0.95]))
    detections.add_field(fields.LABELS, torch.tensor([1, 1]))
    detections.add_field(fields.MASK, torch.ones(2, 1, 28, 28))
    points = torch.zeros(2, 17, 3)
    points[..., 0], points[..., 1], points[..., 2] = torch.linspace(15, 105, 17), 60.0, 1.0
    keypoints = PersonKeypoints(points, (128, 96))
    keypoints.add_field(fields.LOGITS, torch.full((2, 17), 5.0))
    detections.add_field(fields.KEYPOINTS, keypoints)
    return detections


def test_the_least_size_of_an_image_takes_effect(cfg, image):
    seen = []
    for size in (48, 96):
        demo = COCODemo(cfg, min_image_size=size)
        demo.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].image_sizes[0]))
        demo.run_on_opencv_image(image)
        assert demo.min_image_size == size
    assert seen == [(48, 64), (96, 128)]
    assert cfg.INPUT.MIN_SIZE_TEST == 80  # the caller's config is as it was
    assert COCODemo(cfg).cfg.INPUT.MIN_SIZE_TEST == 224


def test_the_picture_is_that_of_the_drawing_module(demo, image):
    before = image.copy()
    picture = demo.run_on_opencv_image(image)
    predictions = demo.compute_prediction(image)
    assert len(predictions) > 0 and predictions.size == (128, 96)
    top = demo.select_top_predictions(predictions)
    scores = top.get_field(fields.SCORES)
    assert (scores > 0.3).all() and (scores.diff() <= 0).all() and len(top) > 0
    expected = draw_instances(image, top, demo.categories, keypoint_threshold=0.0, channel_order="BGR")
    np.testing.assert_array_equal(picture, expected)
    np.testing.assert_array_equal(image, before)
    assert demo.categories[1] == "drawn person"


def test_the_threshold(demo):
    demo_detections = known_detections()
    assert demo.select_top_predictions(demo_detections).get_field(fields.SCORES).tolist() == pytest.approx([0.95, 0.4])
    demo.confidence_threshold = 0.4
    try:
        assert len(demo.select_top_predictions(demo_detections)) == 1
    finally:
        demo.confidence_threshold = 0.3


def test_each_overlay_draws_its_own(demo):
    image = np.full((96, 128, 3), 128, dtype=np.uint8)
    detections = known_detections()

    def changed(picture):
        assert (image == 128).all()
        return (picture != 128).any(axis=2)

    frames = changed(demo.overlay_boxes(image, detections))
    assert frames[20, 10:50].all() and frames[30:90, 109].all() and not frames[50, 30] and not frames[5:15].any()
    masks = changed(demo.overlay_mask(image, detections))
    assert masks[25:75, 15:45].all() and masks[35:85, 65:105].all() and not masks[:19].any()
    skeletons = changed(demo.overlay_keypoints(image, detections))
    assert skeletons[60, 16:104].mean() > 0.9 and not skeletons[:50].any() and not skeletons[70:].any()
    names = changed(demo.overlay_class_names(image, detections[1:]))
    assert names[:30].any() and not names[31:].any()
    colours = demo.overlay_boxes(image, detections)[[20, 30], [30, 80]]
    assert (colours[0] != colours[1]).any()


def test_heat_maps(cfg, image):
    demo = COCODemo(cfg, show_mask_heatmaps=True, masks_per_dim=3, confidence_threshold=0.0, min_image_size=64)
    picture = demo.run_on_opencv_image(image)
    assert picture.shape == image.shape
    predictions = demo.select_top_predictions(demo.compute_prediction(image))
    np.testing.assert_array_equal(picture, demo.create_mask_montage(image, predictions))
    other = cfg.clone()
    other.MODEL.MASK_ON = False
    with pytest.raises(ValueError, match="heat maps of masks need a model with masks.*MODEL.MASK_ON is False"):
        COCODemo(other, show_mask_heatmaps=True)
    other.MODEL.RPN_ONLY = True
    with pytest.raises(ValueError, match="the model makes only proposals"):
        COCODemo(other)


def test_the_chosen_mask_is_filled_and_others_are_outlines(cfg, demo, monkeypatch):
    image = np.full((96, 128, 3), 128, dtype=np.uint8)
    detections = known_detections()[:1]
    names = fields.mask_fields("visible"), fields.mask_fields("amodal")
    for of_mask, box in zip(names, ([10.0, 20, 30, 80], [10.0, 20, 50, 80]), strict=True):
        detections.add_field(of_mask.mask, torch.ones(1, 1, 28, 28))
        detections.add_field(of_mask.boxes, BoxList([box], (128, 96), offset=0))
    visible = (demo.overlay_mask(image, detections) != 128).any(axis=2)
    assert visible[25:75, 15:25].all() and not visible[25:75, 35:45].any() and visible[25:75, 49].all()
    monkeypatch.setattr(demo, "mask", "amodal")
    np.testing.assert_array_equal(
        demo.overlay_mask(image, detections), draw_only_masks(image, detections, mask="amodal")
    )
    with pytest.raises(ValueError, match="mask to fill is 'amodal'; the named masks of the model are none"):
        COCODemo(cfg, mask="amodal")


def draw_only_masks(image, detections, **options):
    canvas = image.copy()
    drawing.draw_masks(canvas, detections, drawing.instance_colours(detections, "BGR"), **options)
    return canvas


def test_subclasses_have_their_own_names_and_overlays(cfg, image):
    class Named(COCODemo):
        CATEGORIES = ["__background", "somebody"]

        def overlay_boxes(self, image, predictions):
            return np.zeros_like(image)

        def overlay_keypoints(self, image, predictions):
            return image

        def overlay_class_names(self, image, predictions):
            return image

    demo = Named(cfg, min_image_size=64)
    assert demo.categories == {0: "__background", 1: "somebody"}
    assert not demo.run_on_opencv_image(image).any()


def test_masks_of_a_prediction_are_drawn_over_the_image(cfg, demo, image):
    predictions = demo.compute_prediction(image)
    masks = predictions.get_field(fields.MASK)
    assert masks.shape == (len(predictions), 1, 96, 128) and masks.dtype == torch.uint8 and masks.max() == 1
    pending = demo.predictor(image, "BGR")
    torch.testing.assert_close(predictions.bbox, pending.bbox)
    np.testing.assert_array_equal(masks[:, 0].numpy(), drawing.image_masks(pending).numpy())
    contours, _ = cv2.findContours(masks[0, 0].numpy(), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)  # as users' code does
    assert contours
    heat = COCODemo(cfg, show_mask_heatmaps=True, min_image_size=64).compute_prediction(image).get_field(fields.MASK)
    assert heat.dtype == torch.uint8 and heat.max() > 127
    assert heat[masks > 0].min() >= 127 and heat[masks == 0].max() <= 127  # of 255, rounded down


def test_users_who_wrote_their_own_steps(cfg, demo, image):
    """A subclass that spells out what the model is given and gives, as code for maskrcnn-benchmark does."""

    class Spelled(COCODemo):
        def build_transform(self):
            self.built = True
            standard = super().build_transform()
            return lambda image: standard(image[:, ::-1])  # a mirror

        def compute_prediction(self, original_image):
            images = to_image_list(self.transforms(original_image), self.cfg.DATALOADER.SIZE_DIVISIBILITY)
            with torch.no_grad():
                predictions = self.model(images.to(self.device))
            prediction = [found.to(self.cpu_device) for found in predictions][0]
            height, width = original_image.shape[:-1]
            prediction = prediction.resize((width, height))
            if prediction.has_field("mask"):
                masks = self.masker([prediction.get_field("mask")], [prediction])[0]
                prediction.add_field("mask", masks)
            return prediction

        def compute_colors_for_labels(self, labels):
            return np.full((len(labels), 3), (1, 2, 250), dtype=np.uint8)

    spelled = Spelled(cfg, confidence_threshold=0.3, min_image_size=64)
    assert spelled.built
    mirrored = spelled.compute_prediction(image)
    torch.testing.assert_close(mirrored.bbox, demo.compute_prediction(image[:, ::-1].copy()).bbox)
    framed = spelled.overlay_boxes(np.zeros((96, 128, 3), np.uint8), known_detections())
    assert {tuple(colour) for colour in framed.reshape(-1, 3)} == {(0, 0, 0), (1, 2, 250)}
    assert (spelled.run_on_opencv_image(image) != image).any()
    by_category = demo.compute_colors_for_labels(torch.tensor([3, 1, 3]))
    assert by_category.shape == (3, 3) and (by_category[0] == by_category[2]).all()
    assert (by_category[0] != by_category[1]).any() and demo.compute_colors_for_labels(torch.tensor([])).shape == (0, 3)


def test_boxes_alone(cfg, image, model_files):
    config, weights = model_files
    small = load_config(config, ["MODEL.MASK_ON", False, "MODEL.KEYPOINT_ON", False, "MODEL.REFINE_ON", False])
    demo = COCODemo(small, confidence_threshold=0.0, min_image_size=64, weight_loading=str(weights))
    assert (demo.run_on_opencv_image(image) != image).any()
