"""RetinaNet from random initialisation finds the people that it was trained on, with the tools that a user runs."""

import json

import pytest

from tests.tools.runs import ROOT, load_tool, write_people

SMALL = [
    "INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MAX_SIZE_TRAIN", "128", "INPUT.MIN_SIZE_TEST", "96",
    "INPUT.MAX_SIZE_TEST", "128", "INPUT.HORIZONTAL_FLIP_PROB_TRAIN", "0.0", "DATALOADER.NUM_WORKERS", "0",
    "SOLVER.MAX_ITER", "300", "SOLVER.IMS_PER_BATCH", "3", "SOLVER.WARMUP_ITERS", "20", "SOLVER.BASE_LR", "0.002",
    "SOLVER.LOG_PERIOD", "50", "SEED", "1", "TEST.PICTURES", "6", "DATASETS.TEST", "('people_train',)",
]  # fmt: skip


@pytest.mark.slow
def test_retinanet_fits_six_drawn_images(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(write_people(tmp_path)))
    monkeypatch.chdir(ROOT)
    config = ["--config-file", "configs/quick/retinanet_people.yaml", "OUTPUT_DIR", str(tmp_path / "run")]
    assert load_tool("train_net").main([*config, *SMALL]) == 0
    folder = tmp_path / "run" / "inference" / "people_train"
    metrics = json.loads((folder / "coco_results.json").read_text())["metrics"]
    assert list(metrics) == ["bbox"] and metrics["bbox"]["AP50"] > 0.9
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any({"loss_retina_cls", "loss_retina_reg"} <= line.keys() for line in lines)
