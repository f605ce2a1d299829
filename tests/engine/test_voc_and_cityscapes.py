"""The configs of Pascal VOC and Cityscapes on generated folders: a step of training, and an evaluated test."""

from pathlib import Path

import pytest
import torch

from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.engine.inference import inference, tasks_of_model
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.solver import make_optimizer
from maskrcnn_benchmark.structures import fields
from tests.data.cityscapes_files import polygon, write_cityscapes
from tests.data.voc_files import voc_object, write_voc
from tests.modeling.detector.test_shipped_configs_run import with_few_channels

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SIZE = (96, 64)


def write_folders(folder):
    """Both data sets, with every split that the configs name."""
    objects = [voc_object("dog", (11, 11, 60, 50)), voc_object("sofa", (50, 20, 90, 60), difficult=1)]
    for split in ("train", "val", "test"):
        write_voc(folder / "voc" / "VOC2007", {f"00000{split}{number}": objects for number in range(2)}, split, SIZE)
    polygons = [polygon("car", 10, 10, 60, 50), polygon("person", 50, 20, 90, 60), polygon("cargroup", 0, 0, 20, 15)]
    for split in ("train", "val"):
        names = [f"bonn_{split}{number}_000019" for number in range(2)]
        write_cityscapes(folder / "cityscapes", dict.fromkeys(names, polygons), split, SIZE)


@pytest.mark.parametrize(
    ("name", "rows", "label"),
    [
        ("pascal_voc/e2e_faster_rcnn_R_50_C4_1x_1_gpu_voc", {"bbox": ("AP", "AP (area)")}, "dog"),
        ("pascal_voc/e2e_faster_rcnn_R_50_C4_1x_4_gpu_voc", {"bbox": ("AP", "AP (area)")}, "dog"),
        ("cityscapes/e2e_mask_rcnn_R_50_FPN_1x_poly", {"bbox": ("AP", "AP50"), "segm": ("AP", "AP50")}, "car"),
        ("cityscapes/e2e_mask_rcnn_R_50_FPN_1x_binarymask", {"bbox": ("AP", "AP50"), "segm": ("AP", "AP50")}, "car"),
    ],
)
def test_a_step_and_a_test(tmp_path, monkeypatch, name, rows, label):
    write_folders(tmp_path)
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(tmp_path))
    cfg = with_few_channels(CONFIGS / f"{name}.yaml")
    cfg.merge_from_list(
        [
            *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MIN_SIZE_TEST", 64, "DATALOADER.NUM_WORKERS", 0, "SEED", 1),
            *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 1, "MODEL.ROI_HEADS.SCORE_THRESH", 0.0),
        ]
    )
    torch.manual_seed(0)
    model = build_detection_model(cfg)
    optimizer = make_optimizer(cfg, model)
    ((images, targets, _),) = make_data_loader(cfg)
    assert all(len(target) == (1 if "voc" in name else 2) for target in targets), "no difficult objects, no groups"
    assert targets[0].has_field(fields.MASKS) == cfg.MODEL.MASK_ON
    losses = model.train()(images, targets)
    sum(losses.values()).backward()
    optimizer.step()
    assert all(torch.isfinite(loss) for loss in losses.values()) and losses.keys() >= {"loss_classifier"}

    (loader,) = make_data_loader(cfg, is_train=False)
    results = inference(
        model, loader, "test", iou_types=tasks_of_model(model), output_folder=str(tmp_path / "out"), device="cpu"
    )
    assert {task: tuple(metrics) for task, metrics in results.metrics.items()} == rows and results.num_images == 2
    assert all(0 <= results.per_class[task][label] <= 1 for task in rows)
    assert all(results.per_class[task]["bus"] == -1 for task in rows), "there is none"
    assert (tmp_path / "out" / "results.txt").is_file()
