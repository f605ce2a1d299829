"""What the tests of layers share."""

import warnings
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from maskrcnn_benchmark.layers import _extension, reference, schemas


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


@pytest.fixture
def reference_kernels() -> Iterator[None]:
    """The references serve the CPU, too, while the test runs."""
    library = torch.library.Library("maskrcnn_benchmark", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of kernels that are replaced
        for schema in schemas.SCHEMAS:
            name = schemas.op_name(schema)
            library.impl(name, reference.KERNELS[name], "CPU")
        yield
        library._destroy()


@pytest.fixture(params=["compiled", "reference"])
def implementation(request: pytest.FixtureRequest) -> str:
    """Runs the test twice: with the compiled kernels on the CPU, and with their references."""
    if request.param == "reference":
        request.getfixturevalue("reference_kernels")
    elif not _extension.is_compiled():
        pytest.skip("maskrcnn_benchmark._C is not built")
    return request.param
