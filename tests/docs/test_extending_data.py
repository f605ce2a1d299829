"""The data set, the evaluator and the transform in docs/EXTENDING.md work as they are printed there."""

import csv
import importlib
import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn_benchmark.config import get_cfg
from maskrcnn_benchmark.config.paths_catalog import DatasetCatalog
from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.data.datasets import DATASETS
from maskrcnn_benchmark.data.evaluation import EVALUATORS, evaluate
from maskrcnn_benchmark.data.transforms import TRANSFORMS
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from tests.tools.runs import CONFIG, ROOT, TINY, finish, start

MODULES = ("csv_boxes", "recall_evaluator", "grey")
SIZE = (96, 64)  # width, height
COLUMNS = ("file", "width", "height", "x1", "y1", "x2", "y2", "class")


def write_modules(folder):
    document = (ROOT / "docs" / "EXTENDING.md").read_text(encoding="utf-8")
    for name in MODULES:
        (code,) = re.findall(rf"```python\n# {name}\.py\n(.*?)```", document, flags=re.DOTALL)
        (folder / f"{name}.py").write_text(code)


def write_shapes(folder):
    """shapes/: four images of two squares each, a dark and a bright one. Returns: the boxes by image and class."""
    images = folder / "shapes" / "images"
    images.mkdir(parents=True)
    boxes = {}
    with open(folder / "shapes" / "boxes.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for number in range(4):
            pixels = np.full((SIZE[1], SIZE[0], 3), 128, np.uint8)
            for name, left, value in (("bright", 50, 255), ("dark", 4, 0)):
                boxes[number, name] = box = (left + number, 10, left + number + 30, 50)
                pixels[box[1] : box[3], box[0] : box[2]] = value
                rows.writerow((f"{number}.png", *SIZE, *box, name))
            Image.fromarray(pixels).save(images / f"{number}.png")
    return boxes


@pytest.fixture()
def shapes(tmp_path, monkeypatch):
    """A config of the data set, with the modules imported and their registrations forgotten afterwards."""
    write_modules(tmp_path)
    write_shapes(tmp_path)
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(tmp_path))
    monkeypatch.setattr(DatasetCatalog, "DATASETS", dict(DatasetCatalog.DATASETS))
    monkeypatch.syspath_prepend(str(tmp_path))
    registries = [(registry, dict(registry)) for registry in (DATASETS, EVALUATORS, TRANSFORMS)]
    for name in MODULES:
        importlib.import_module(name)
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("shapes",)
    cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES, cfg.MODEL.DEVICE, cfg.DATALOADER.NUM_WORKERS = 3, "cpu", 0
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER = 2, 2
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (128,), 128
    yield cfg
    for registry, before in registries:
        registry.clear()
        registry.update(before)
    for name in MODULES:
        sys.modules.pop(name)


@pytest.mark.parametrize("offset", [0, 1])
def test_the_data_set_loads(shapes, offset):
    shapes.MODEL.BOX_OFFSET, shapes.INPUT.HORIZONTAL_FLIP_PROB_TRAIN = offset, 0.0
    for images, targets, indices in make_data_loader(shapes):
        assert images.tensors.shape[2:] == (128, 192)
        for target, index in zip(targets, indices, strict=True):
            assert target.offset == offset and target.get_field(fields.LABELS).tolist() == [1, 2]
            assert target.bbox[1].tolist() == pytest.approx([2 * (4 + index), 20, 2 * (34 + index), 100])
    [loader] = make_data_loader(shapes, is_train=False)
    assert loader.dataset.can_draw and loader.dataset.class_names == ["__background__", "bright", "dark"]


def test_the_evaluator_that_it_names_counts(shapes, tmp_path):
    dataset = make_data_loader(shapes, is_train=False)[0].dataset
    found = []
    for index in range(4):
        boxes = dataset.get_groundtruth(index).resize((192, 128))
        if index == 0:
            boxes.add_field(fields.LABELS, torch.tensor([2, 1]))  # the wrong classes
        found.append(boxes if index != 3 else boxes[[0]])
    results = evaluate(dataset, found, tmp_path / "results")
    assert results.metrics == {"bbox": {"recall": pytest.approx(5 / 8)}}
    assert "0.6250" in (tmp_path / "results" / "results.txt").read_text()
    nothing = BoxList([], SIZE)
    nothing.add_field(fields.LABELS, torch.zeros(0, dtype=torch.int64))
    assert evaluate(dataset, [nothing] * 4, None).metrics["bbox"]["recall"] == 0


def test_the_transform_runs_in_training(shapes):
    transform = TRANSFORMS["RandomGrey"](shapes, True)
    image = Image.new("RGB", (4, 4), (200, 0, 0))
    transform.probability = 1.0
    grey, target = transform(image)
    assert target is None and len(set(grey.getpixel((0, 0)))) == 1 and image.getpixel((0, 0)) == (200, 0, 0)
    shapes.INPUT.TRANSFORMS_TRAIN = ("RandomGrey",)
    assert len(list(make_data_loader(shapes))) == 2


@pytest.mark.slow
def test_a_training_and_a_test_on_the_data_set(tmp_path, monkeypatch):
    write_modules(tmp_path)
    write_shapes(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # where IMPORTS finds the modules
    options = [
        "IMPORTS", str(MODULES), "DATASETS.TRAIN", "('shapes',)", "DATASETS.TEST", "('shapes',)",
        "MODEL.MASK_ON", "False", "MODEL.KEYPOINT_ON", "False", "MODEL.REFINE_ON", "False",
        "MODEL.ROI_BOX_HEAD.NUM_CLASSES", "3", "INPUT.TRANSFORMS_TRAIN", "('RandomGrey',)",
        "OUTPUT_DIR", str(tmp_path / "output"),
    ]  # fmt: skip
    log = finish(start(tmp_path, "tools/train_net.py", "--config-file", str(CONFIG), *TINY, *options))
    folder = tmp_path / "output" / "inference" / "shapes"
    metrics = json.loads((folder / "coco_results.json").read_text())["metrics"]
    assert 0 <= metrics["bbox"]["recall"] <= 1 and "Results on shapes (4 images)" in log
    assert not (folder / "pictures").exists(), "this evaluator does not draw"
