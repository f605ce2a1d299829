"""The Predictor against the test loop, and what it takes and refuses."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn_benchmark import drawing
from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.data.evaluation.coco.image_results import ImageResult
from maskrcnn_benchmark.engine.inference import compute_on_dataset
from maskrcnn_benchmark.engine.predictor import Predictor, detections_in_image, find_category_names
from maskrcnn_benchmark.engine.run import StartupError
from maskrcnn_benchmark.layers.mask_ops import paste_masks
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.checkpoint import CheckpointError
from tests.devices import DEVICES
from tests.small_model import write_small_model
from tests.tools.runs import write_people

AUGMENTED = ("TEST.BBOX_AUG.ENABLED", True, "TEST.BBOX_AUG.H_FLIP", True, "TEST.BBOX_AUG.SCALES", (64,))
IMAGE = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of 128 x 96 pixels, which are scaled on their way in; a config.yml and weights."""
    folder = write_people(tmp_path_factory.mktemp("predictor"), train=1, val=3)
    write_small_model(folder)
    return folder


@pytest.fixture(scope="module")
def predictor(folder):
    return Predictor.from_config_file(folder / "config.yml", weights=folder / "model.pth")


def same(found: ImageResult, expected: ImageResult) -> None:
    assert len(expected) > 0 and found.size_wh == expected.size_wh
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert found.masks.get("segm") == expected.masks.get("segm")
    assert found.keypoints.keys() == expected.keypoints.keys()
    for name, points in expected.keypoints.items():
        np.testing.assert_array_equal(found.keypoints[name], points)


@pytest.mark.parametrize(
    ("together", "opts"),
    [
        (1, ()),
        (2, ()),
        (1, ("MODEL.REFINE_ON", False, "MODEL.BOX_OFFSET", 1)),
        (1, ("MODEL.REFINE_ON", False, "MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS", True)),
        (1, ("DTYPE", "bfloat16")),
        (2, ("MODEL.MASK_ON", False, "MODEL.KEYPOINT_ON", False, "MODEL.REFINE_ON", False)),
        (2, (*AUGMENTED, "TEST.BBOX_AUG.SCALE_H_FLIP", True)),
    ],
    ids=["refined", "batch", "inclusive", "pasted", "bfloat16", "boxes", "augmented"],
)
def test_the_results_are_those_of_the_test_loop(folder, monkeypatch, together, opts):
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(folder))
    cfg = load_config(folder / "config.yml", [*opts, "TEST.IMS_PER_BATCH", together])
    torch.manual_seed(2)
    model = build_detection_model(cfg)
    loader = make_data_loader(cfg, is_train=False)[0]
    expected = compute_on_dataset(model, loader, "cpu", dtype=cfg.DTYPE)
    predictor = Predictor(cfg, model=model)
    paths = [folder / "people" / "val" / f"{number}.jpg" for number in range(1, 4)]
    found = [
        boxes for first in range(0, 3, together) for boxes in predictor.predict_batch(paths[first : first + together])
    ]
    for index, detections in enumerate(found):
        assert detections.size == (128, 96) and detections.bbox.device.type == "cpu"
        same(
            ImageResult.from_detections(detections, (128, 96)), ImageResult.from_detections(expected[index], (128, 96))
        )


def test_images_of_every_kind_are_the_same_image(predictor, tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(IMAGE).save(path)
    expected = predictor(path)
    assert len(expected) and expected.get_field(fields.SCORES).diff().max() <= 0
    others = [
        predictor(str(path)),
        predictor(Image.fromarray(IMAGE)),
        predictor(IMAGE, "RGB"),
        predictor(IMAGE[..., ::-1], "BGR"),
        predictor(np.dstack([IMAGE, IMAGE[..., 0]]), "RGB"),
    ]
    for other in others:
        assert torch.equal(other.bbox, expected.bbox)
        assert torch.equal(other.get_field(fields.MASK), expected.get_field(fields.MASK))
    first, second = predictor.predict_batch([IMAGE[..., ::-1].copy(), path], channel_order="BGR")
    torch.testing.assert_close(first.bbox, expected.bbox)  # sums of two images differ in the last digits
    torch.testing.assert_close(second.bbox, expected.bbox)
    wrong = predictor(IMAGE, "BGR")
    assert not torch.equal(wrong.bbox, expected.bbox)
    grey = predictor(IMAGE[..., 0])
    assert torch.equal(grey.bbox, predictor(np.repeat(IMAGE[..., :1], 3, axis=2), "RGB").bbox)


def test_a_batch_of_sizes_and_none(predictor):
    tall = np.ascontiguousarray(IMAGE.transpose(1, 0, 2))
    wide, narrow = predictor.predict_batch([IMAGE, tall], "RGB")
    assert wide.size == (128, 96) and narrow.size == (96, 128)
    assert (narrow.bbox[:, 2] <= 96).all() and (narrow.bbox[:, 3] <= 128).all()
    assert predictor.predict_batch([]) == []


def test_a_photo_that_was_taken_sideways_is_turned(predictor, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(IMAGE).save(tmp_path / "turned.png", exif=exif)
    assert predictor(tmp_path / "turned.png").size == (96, 128)


def test_what_is_no_image(predictor, tmp_path):
    with pytest.raises(ValueError, match=r"say whether the channels of an array are 'RGB' or 'BGR'"):
        predictor(IMAGE)
    with pytest.raises(ValueError, match=r"an array \(96, 128, 3\) of float64 was given as an image"):
        predictor(IMAGE / 255, "RGB")
    with pytest.raises(ValueError, match=r"an array \(3, 96, 128\) of uint8"):
        predictor(IMAGE.transpose(2, 0, 1), "RGB")
    with pytest.raises(ValueError, match=r"an array \(0, 5, 3\)"):
        predictor(IMAGE[:0, :5], "RGB")
    with pytest.raises(TypeError, match="not Tensor"):
        predictor(torch.zeros(3, 4, 4))
    with pytest.raises(FileNotFoundError, match="none.jpg does not exist"):
        predictor(tmp_path / "none.jpg")
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(OSError, match="not an image of a known format"):
        predictor(tmp_path / "text.jpg")


def test_names_come_from_the_checkpoint_then_the_data_then_the_number(folder, predictor, monkeypatch, caplog):
    assert predictor.categories == {0: "__background__", 1: "drawn person"}
    cfg = predictor.cfg.clone()
    cfg.defrost()
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(folder))
    file = folder / "people" / "annotations" / "person_keypoints_val.json"
    named = json.loads(file.read_text())["categories"][0]["name"]
    assert find_category_names(cfg) == {0: "__background__", 1: named}
    assert Predictor(cfg, model=predictor.model, categories={1: "mine"}).categories == {1: "mine"}
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(folder / "nowhere"))
    assert find_category_names(cfg)[1] == "person"
    cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES = 81
    names = find_category_names(cfg)
    assert len(names) == 81 and names[1] == "person" and names[80] == "toothbrush"
    cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES = 7
    assert find_category_names(cfg) == {}
    assert "names of the 6 categories are not known" in caplog.text
    cfg.MODEL.RETINANET_ON = True
    assert len(find_category_names(cfg)) == 81


def test_weights(folder, tmp_path):
    with pytest.raises(StartupError, match="no weights to run.*MODEL.WEIGHT is empty, and --weights was not given"):
        Predictor.from_config_file(folder / "config.yml")
    with pytest.raises(FileNotFoundError, match="no weights file"):
        Predictor.from_config_file(folder / "config.yml", weights=tmp_path / "none.pth")
    (tmp_path / "bad.pth").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="cannot read"):
        Predictor.from_config_file(folder / "config.yml", weights=tmp_path / "bad.pth")
    by_key = Predictor.from_config_file(folder / "config.yml", ["MODEL.WEIGHT", str(folder / "model.pth")])
    by_folder = Predictor.from_config_file(folder / "config.yml", ["OUTPUT_DIR", str(folder)])
    assert torch.equal(by_key(IMAGE, "RGB").bbox, by_folder(IMAGE, "RGB").bbox)


def test_what_a_mask_spans_is_scaled_as_a_whole():
    found = BoxList([[10.0, 10.0, 19.0, 29.0]], (100, 100), offset=1)  # pixels 10 to 19 and 10 to 29
    found.add_field(fields.MASK, torch.ones(1, 1, 28, 28))
    image = detections_in_image(found, (400, 200))
    assert torch.equal(image.bbox, torch.tensor([[40.0, 20.0, 76.0, 58.0]]))
    assert torch.equal(image.get_field(fields.MASK_BOXES).extents(), torch.tensor([[40.0, 20.0, 80.0, 60.0]]))
    drawn = drawing.image_masks(image)
    expected = paste_masks(torch.ones(1, 28, 28), torch.tensor([[40.0, 20.0, 80.0, 60.0]]), (200, 400))
    assert torch.equal(drawn, expected)
    assert not found.has_field(fields.MASK_BOXES)


def test_every_named_mask_is_scaled_in_what_it_spans():
    names = fields.mask_fields("visible"), fields.mask_fields("amodal")
    found = BoxList([[10.0, 10.0, 19.0, 29.0]], (100, 100), offset=1)
    for of_mask in names:
        found.add_field(of_mask.mask, torch.ones(1, 1, 28, 28))
    found.add_field(names[1].boxes, BoxList([[0.0, 10.0, 30.0, 30.0]], (100, 100), offset=0))
    image = detections_in_image(found, (400, 200))
    spans = [image.get_field(of_mask.boxes).extents()[0].tolist() for of_mask in names]
    assert spans == [[40, 20, 80, 60], [0, 20, 120, 60]]
    found.add_field(names[0].mask, torch.ones(1, 1, 100, 100, dtype=torch.bool))
    assert detections_in_image(found, (400, 200)).get_field(names[0].mask).shape == (1, 1, 200, 400)


@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_in_flight(folder, device):
    predictor = Predictor.from_config_file(
        folder / "config.yml", ["MODEL.DEVICE", device], weights=folder / "model.pth"
    )
    prepared = [predictor.prepare(np.roll(IMAGE, shift, axis=1), "RGB") for shift in range(0, 30, 10)]
    pending = [predictor.start([image]) for image in prepared]  # several at once, and waited for in another order
    later = [batch.wait()[0] for batch in reversed(pending)][::-1]
    for image, found in zip(prepared, later, strict=True):
        alone = predictor.start([image]).wait()[0]
        torch.testing.assert_close(found.bbox, alone.bbox, atol=1e-3, rtol=1e-4)
        assert found.bbox.device.type == "cpu" and found.get_field(fields.KEYPOINTS).keypoints.device.type == "cpu"
