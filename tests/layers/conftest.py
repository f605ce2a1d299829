"""What the tests of layers share."""

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="session")
def torchvision_ops() -> ModuleType:
    """`torchvision.ops`, a second reference. It loads under the one version of PyTorch that it was built for."""
    try:
        from torchvision import ops
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision does not load: {error}")
    return ops


@pytest.fixture
def deterministic_algorithms() -> Iterator[None]:
    """`torch.use_deterministic_algorithms(True)` while the test runs."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
