"""Masks and keypoints jointly, from random initialisation, on three real images: docs/FIT_TEN_IMAGES.md in small."""

import json

import pytest

from tests.tools.runs import ROOT, load_tool

SMALL = [
    "INPUT.MIN_SIZE_TRAIN", "(192,)", "INPUT.MIN_SIZE_TEST", "192", "SOLVER.MAX_ITER", "240", "SEED", "1",
    "SOLVER.WARMUP_ITERS", "20", "SOLVER.BASE_LR", "0.002", "TEST.PICTURES", "0", "DATALOADER.NUM_WORKERS", "0",
]  # fmt: skip


# Boxes, masks and keypoints are all learned, by the coarse branches and by the refine head; untrained they score 0.
# The longer runs on ten images, with the figures that a user expects, are in the document.
FLOORS = {
    "fit_ten_coco_images.yaml": {
        "bbox": 0.6, "segm_coarse": 0.5, "segm": 0.5, "keypoints_coarse": 0.5, "keypoints": 0.5,
    },
    "fit_ten_coco_images_two_masks.yaml": {
        "bbox": 0.6, "segm_visible": 0.5, "segm_visible_coarse": 0.5, "segm_hull": 0.5, "segm_hull_coarse": 0.5,
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("config", FLOORS)
def test_joint_training_fits_three_real_images(coco_mini, tmp_path, monkeypatch, config):
    subset = ["--coco", str(coco_mini), "--output", str(tmp_path), "--count", "3", "--hull"]
    assert load_tool("make_coco_subset").main(subset) == 0
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(tmp_path))
    monkeypatch.chdir(ROOT)
    arguments = ["--config-file", f"configs/quick/{config}", "OUTPUT_DIR", str(tmp_path / "run")]
    assert load_tool("train_net").main([*arguments, *SMALL]) == 0
    results = tmp_path / "run" / "inference" / "keypoints_coco_2017_train" / "coco_results.json"
    found = {name: row["AP"] for name, row in json.loads(results.read_text())["metrics"].items()}
    assert {name: found.get(name) for name, floor in FLOORS[config].items() if not found.get(name, 0) >= floor} == {}
