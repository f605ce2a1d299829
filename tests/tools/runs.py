"""Runs of the command-line tools on a few drawn people: the data, the config, and the command."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

from maskrcnn_benchmark.data.synthetic_people import SceneSettings, render_scene
from maskrcnn_benchmark.data.synthetic_people.dataset import CATEGORY

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "quick" / "hrnet_refine_people.yaml"
# The quick recipe on images and batches so small that an iteration takes a fraction of a second.
TINY = [
    "INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MAX_SIZE_TRAIN", "128", "INPUT.MIN_SIZE_TEST", "96",
    "INPUT.MAX_SIZE_TEST", "128", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "4",
    "SOLVER.LOG_PERIOD", "1", "SOLVER.CHECKPOINT_PERIOD", "100", "SOLVER.WARMUP_ITERS", "2", "SEED", "3",
    "TEST.IMS_PER_BATCH", "2", "TEST.PICTURES", "2",
]  # fmt: skip


def write_people(folder: Path, train: int = 6, val: int = 5) -> Path:
    """people/ in the catalog's layout below `folder`; returns `folder`, for MASKRCNN_BENCHMARK_DATASETS."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        images, annotations = [], []
        target = folder / "people" / split
        target.mkdir(parents=True)
        for number in range(1, count + 1):
            image, people = render_scene(SceneSettings(width=128, height=96, max_people=2), rng)
            cv2.imwrite(str(target / f"{number}.jpg"), image[:, :, ::-1])
            images.append({"id": number, "file_name": f"{number}.jpg", "width": 128, "height": 96})
            for person in people:
                annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": 1, **person})
        file = folder / "people" / "annotations" / f"person_keypoints_{split}.json"
        file.parent.mkdir(exist_ok=True)
        content = {"images": images, "annotations": annotations, "categories": [CATEGORY]}
        file.write_text(json.dumps(content))
    return folder


def load_tool(name: str) -> ModuleType:
    """tools/<name>.py as a module, for its `main`."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def environment(datasets: Path) -> dict[str, str]:
    """For a process of its own: one thread, so that sums have one order; no leftovers of another launcher."""
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MASKRCNN_BENCHMARK_DATASETS": str(datasets)}


def start(datasets: Path, *command: str) -> subprocess.Popen[str]:
    """Python with these arguments, from the root of the repository; output and errors in one pipe."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment(datasets),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    """Wait for the end; the output. Fails where the status is another."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output
    return output
