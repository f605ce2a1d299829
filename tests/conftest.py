"""Fixtures that every part of the suite shares."""

from pathlib import Path

import pytest
import torch

# Tests run side by side on tiny tensors: on a busy machine, threads that wait for one another cost minutes.
torch.set_num_threads(1)

COCO_MINI = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco_mini"


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """Folder of 80 + 40 real COCO images with instances and person keypoints; the repository does not carry it."""
    if not COCO_MINI.is_dir():
        pytest.skip(f"the sample of real COCO images is not at {COCO_MINI}")
    return COCO_MINI


@pytest.fixture(autouse=True)
def _seed_torch() -> None:
    """The same random numbers in each test, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_datasets_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests look for datasets where they say themselves, whatever the shell that runs them has set."""
    monkeypatch.delenv("MASKRCNN_BENCHMARK_DATASETS", raising=False)
