"""A config and weights on disk: the quick recipe, smaller still, that was never trained."""

from __future__ import annotations

from pathlib import Path

import torch

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.utils.checkpoint import Checkpointer

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quick" / "hrnet_refine_people.yaml"
SMALL = [
    "INPUT.MIN_SIZE_TEST", 80, "INPUT.MAX_SIZE_TEST", 200, "DATALOADER.NUM_WORKERS", 0,
    "MODEL.ROI_HEADS.DETECTIONS_PER_IMG", 6, "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST", 20, "OUTPUT_DIR", "",
]  # fmt: skip


def write_small_model(folder: Path) -> tuple[Path, Path]:
    """config.yml and model.pth in `folder`; the checkpoint calls label 1 "drawn person"."""
    cfg = load_config(CONFIG, SMALL)
    (folder / "config.yml").write_text(cfg.dump())
    torch.manual_seed(1)
    model = build_detection_model(cfg)
    Checkpointer(model, save_dir=folder).save("model", categories={0: "__background__", 1: "drawn person"})
    return folder / "config.yml", folder / "model.pth"
