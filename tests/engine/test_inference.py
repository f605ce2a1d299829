"""The test loop around a model that knows the answers, and the pictures that it leaves."""

import contextlib
import io

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch import nn

from maskrcnn_benchmark.config import get_cfg
from maskrcnn_benchmark.data.evaluation.coco.pictures import SCORE_THRESHOLD, compare
from maskrcnn_benchmark.engine.inference import compute_on_dataset, inference, run_tests, tasks_of_model
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from maskrcnn_benchmark.structures.known_skeletons import COCO_PERSON
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask
from tests.devices import DEVICES

SIZE = (60, 40)  # width, height of every image; the model sees twice that
BOX = (10.0, 8.0, 30.0, 24.0)  # x, y, w, h of the object in each image but the last, which is empty
COUNT = 5


class Blocks:
    """A dataset of grey images with one red block each."""

    class_names = ["__background__", "block"]

    def __init__(self):
        x, y, w, h = BOX
        points = [x + 5.0, y + 5.0, 2.0] * 17
        annotation = {"category_id": 1, "bbox": list(BOX), "area": w * h, "iscrowd": 0, "keypoints": points}
        annotation |= {"num_keypoints": 17, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
        self.coco = COCO()
        self.coco.dataset = {
            "images": [{"id": 100 + i, "width": SIZE[0], "height": SIZE[1]} for i in range(COUNT)],
            "categories": [{"id": 1, "name": "block"}],
            "annotations": [{**annotation, "id": i + 1, "image_id": 100 + i} for i in range(COUNT - 1)],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco.createIndex()
        self.id_to_img_map = {i: 100 + i for i in range(COUNT)}
        self.contiguous_category_id_to_json_id = {1: 1}

    def __len__(self):
        return COUNT

    def get_img_info(self, index):
        return {"id": 100 + index, "width": SIZE[0], "height": SIZE[1], "file_name": f"{index}.png"}

    def read_image(self, index):
        image = np.full((SIZE[1], SIZE[0], 3), 128, dtype=np.uint8)
        image[8:32, 10:40] = (200, 0, 0)
        return Image.fromarray(image)

    def get_groundtruth(self, index):
        annotations = self.coco.imgToAnns[100 + index]
        target = BoxList([a["bbox"] for a in annotations], SIZE, mode="xywh", offset=0).convert("xyxy")
        target.add_field(fields.LABELS, torch.ones(len(annotations), dtype=torch.int64))
        target.add_field(fields.MASKS, SegmentationMask([a["segmentation"] for a in annotations], SIZE))
        target.add_field(fields.KEYPOINTS, PersonKeypoints([a["keypoints"] for a in annotations], SIZE))
        return target


class Loader:
    """Batches of two; the first pixel of an image tells its index."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __iter__(self):
        for start in range(0, COUNT, 2):
            indices = tuple(range(start, min(start + 2, COUNT)))
            pixels = torch.zeros(len(indices), 3, SIZE[1] * 2, SIZE[0] * 2)
            pixels[:, 0, 0, 0] = torch.tensor(indices, dtype=torch.float32)
            yield ImageList(pixels, [(SIZE[1] * 2, SIZE[0] * 2)] * len(indices)), None, indices

    def __len__(self):
        return -(-COUNT // 2)


class Oracle(nn.Module):
    """Finds the block in every image but the empty one; must be in evaluation mode and without gradients."""

    def __init__(self, dataset):
        super().__init__()
        self.dataset = dataset
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images):
        assert not self.training and not torch.is_grad_enabled()
        found = []
        for index in images.tensors[:, 0, 0, 0].int().tolist():
            truth = self.dataset.get_groundtruth(index).resize((SIZE[0] * 2, SIZE[1] * 2))
            detections = BoxList(truth.bbox, truth.size, offset=0)
            detections.add_field(fields.LABELS, truth.get_field(fields.LABELS))
            detections.add_field(fields.SCORES, torch.full((len(truth),), 0.9))
            detections.add_field(fields.MASK, torch.ones(len(truth), 1, 28, 28))
            detections.add_field(fields.KEYPOINTS, truth.get_field(fields.KEYPOINTS))
            found.append(detections.to(images.tensors.device))
        return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("training", [True, False])
def test_inference_evaluates_draws_and_leaves_the_model_as_it_was(device, training, tmp_path, caplog):
    dataset = Blocks()
    model = Oracle(dataset).to(device).train(training)
    with caplog.at_level("INFO"):
        results = inference(
            model,
            Loader(dataset),
            "blocks",
            iou_types=("bbox", "segm", "keypoints"),
            device=device,
            output_folder=tmp_path,
            expected_results=[("bbox", "AP", (1.0, 0.001))],
            pictures=3,
        )
    assert model.training == training
    assert {task: metrics["AP"] for task, metrics in results.metrics.items()} == pytest.approx(
        {"bbox": 1.0, "segm": 1.0, "keypoints": 1.0}
    )
    assert results.num_images == COUNT and not results.failures
    for text in (
        "Start evaluation on blocks dataset (5 images)",
        "Total run time:",
        "s / img per device, on 1 devices",
        "PASS",
    ):
        assert text in caplog.text
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["100.png", "101.png", "103.png"]


def test_expected_results_that_are_not_met_are_kept():
    dataset = Blocks()
    expected = [("bbox", "AP", (0.5, 0.001))]
    results = inference(Oracle(dataset), Loader(dataset), "blocks", device="cpu", expected_results=expected)
    assert len(results.failures) == 1


def test_predictions_without_an_evaluator_come_back_by_index():
    dataset = Blocks()
    found = compute_on_dataset(Oracle(dataset), Loader(dataset), "cpu")
    assert list(found) == list(range(COUNT))
    assert found[0].size == (120, 80) and len(found[4]) == 0


def test_augmented_tests_need_a_loader_of_views():
    dataset = Blocks()
    with pytest.raises(ValueError, match="the loader gives one view of each image"):
        inference(Oracle(dataset), Loader(dataset), "blocks", bbox_aug=True, device="cpu")


def test_run_tests_takes_everything_from_the_config(tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.DATASETS.TEST = ("blocks", "more_blocks")
    cfg.TEST.PICTURES = 1
    dataset = Blocks()
    model = Oracle(dataset)
    model.tasks = ("bbox", "segm")
    results = run_tests(cfg, model, [Loader(dataset), Loader(dataset)], "cpu")
    assert list(results) == ["blocks", "more_blocks"]
    assert list(results["blocks"].metrics) == ["bbox", "segm"]
    assert (tmp_path / "inference" / "more_blocks" / "segm.json").is_file()
    assert len(list((tmp_path / "inference" / "blocks" / "pictures").iterdir())) == 1


def test_a_model_that_names_no_tasks_is_evaluated_for_its_boxes():
    assert tasks_of_model(nn.Linear(1, 1)) == ("bbox",)


def test_a_picture_shows_truth_left_and_prediction_right():
    dataset = Blocks()
    model = Oracle(dataset).eval()
    evaluated = {}

    class Keep:
        def process(self, indices, detections):
            from maskrcnn_benchmark.data.evaluation.coco.image_results import ImageResult

            evaluated.update(
                {i: ImageResult.from_detections(d, SIZE) for i, d in zip(indices, detections, strict=True)}
            )

    assert compute_on_dataset(model, Loader(dataset), "cpu", evaluator=Keep()) == {}
    image = np.asarray(dataset.read_image(0))
    picture = compare(image, dataset.get_groundtruth(0), evaluated[0], dataset.class_names)
    empty = compare(image, dataset.get_groundtruth(0), evaluated[4], dataset.class_names)
    height, width = picture.shape[:2]
    assert height > 400, "small images are enlarged"
    half = width // 2
    assert (picture[:, : half - 8] == empty[:, : half - 8]).all(), "the same ground truth"
    assert (picture[:, half + 8 :] != empty[:, half + 8 :]).any(), "another prediction"

    found = evaluated[0].to_boxlist(evaluated[0].best_rows(SCORE_THRESHOLD, 100), COCO_PERSON)
    assert found.bbox.tolist() == [[10, 8, 40, 32]]
    assert found.get_field(fields.KEYPOINTS).spec == COCO_PERSON
    drawn = found.get_field(fields.MASKS).get_mask_tensor()[0].nonzero()
    assert drawn.min(0).values.tolist() == [8, 10] and drawn.max(0).values.tolist() == [31, 39]
