"""What the tests of layers share."""

from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def torchvision_ops() -> ModuleType:
    """`torchvision.ops`, a second reference. It loads under the one version of PyTorch that it was built for."""
    try:
        from torchvision import ops
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision does not load: {error}")
    return ops
