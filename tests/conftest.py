"""Fixtures of the whole suite."""

from pathlib import Path

import pytest
import torch

# Tests run in parallel on tiny tensors: threads of PyTorch that wait for each other would cost minutes.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]
COCO_MINI = (ROOT / "datasets" / "coco_mini", ROOT.parent / "shared" / "data" / "coco_mini")


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """Folder of real COCO images with instances and person keypoints; it is not part of the repository."""
    for folder in COCO_MINI:
        if folder.is_dir():
            return folder
    pytest.skip("no sample of COCO at datasets/coco_mini; CONTRIBUTING.md says how to make one")


@pytest.fixture(autouse=True)
def _seed_torch() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_datasets_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests ignore the data folder that the shell has set."""
    monkeypatch.delenv("MASKRCNN_BENCHMARK_DATASETS", raising=False)
