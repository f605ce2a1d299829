"""The compiled library and what stands in for it: one binary on the stable ABI, ops that agree, messages that help."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from inspect import signature
from pathlib import Path

import pytest
import torch

from maskrcnn_benchmark import __version__
from maskrcnn_benchmark.layers import extension_status, reference, schemas

ROOT = Path(__file__).resolve().parents[1]
BUILT = find_spec("maskrcnn_benchmark._C")

needs_build = pytest.mark.skipif(BUILT is None, reason="maskrcnn_benchmark._C is not built")


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        env=os.environ | environment,
    )


@needs_build
def test_the_library_uses_stable_interfaces_only():
    assert BUILT.origin.endswith((".abi3.so", ".pyd"))
    symbols = subprocess.run(["nm", "-D", "--undefined-only", "-C", BUILT.origin], capture_output=True, text=True)
    if symbols.returncode:
        pytest.skip("nm is not installed")
    names = [line.split(maxsplit=1)[1] for line in symbols.stdout.splitlines()]
    # C++ names of libtorch change between releases; the stable interface is C
    assert [name for name in names if name.startswith(("at::", "c10::", "torch::", "caffe2::"))] == []
    assert any(name.startswith("aoti_torch_library") for name in names)


@needs_build
def test_status_names_the_devices():
    assert extension_status().startswith("compiled for the CPU")


# every op on the same inputs, printed, once with the library and once without
EVERY_OP = """
import sys, warnings
if {hidden}:
    sys.modules["maskrcnn_benchmark._C"] = None  # as if it had not been built
import numpy, torch
from maskrcnn_benchmark import layers
import maskrcnn_benchmark.layers.candidates, maskrcnn_benchmark.layers.keypoint_ops, maskrcnn_benchmark.layers.mask_ops
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    torch.manual_seed(0)
    maps = [torch.randn(2, 6, side, side) for side in (40, 20, 10)]
    maps[1] = maps[1].contiguous(memory_format=torch.channels_last)
    maps = [level.requires_grad_() for level in maps]
    corners = torch.rand(60, 2) * 150
    boxes = torch.cat([corners, corners + torch.rand(60, 2) * 150], dim=1)
    scores, groups = torch.rand(60), torch.randint(0, 3, (60,))
    scores[7] = float("nan")
    rois = torch.cat([torch.randint(0, 2, (60, 1)), boxes], dim=1)
    results = [layers.roi_align(maps[1], rois, (3, 2), 0.125, 0, True)]
    results += torch.autograd.grad(results[0].square().sum(), maps[1])
    half = layers.roi_align(maps[0].detach().half(), rois, 2, 0.25, 2)
    assert half.dtype == torch.float16
    results.append(layers.multi_level_roi_align(maps, rois, 3, (0.25, 0.125, 0.0625), 2, canonical_size=100.0))
    results += torch.autograd.grad(results[-1].square().sum(), maps)
    results += [layers.nms(boxes, scores, 0.3), layers.nms(boxes, scores, 0.3, 0)]
    results.append(layers.batched_nms(boxes, scores, groups, 0.3))
    results.append(layers.nms_padded(boxes, scores, 0.3, 70, groups))
    assert layers.nms(boxes[:0], scores[:0], 0.5).shape == (0,)
    assert layers.roi_align(maps[0], rois[:0], 2, 0.25, 2).shape == (0, 6, 2, 2)
    masks, extents = torch.rand(3, 7, 7), boxes[:3] / 4
    results += [layers.mask_ops.paste_masks(masks, extents, (90, 80), threshold) for threshold in (0.5, -1)]
    results += map(torch.from_numpy, layers.mask_ops.mask_run_lengths(masks, extents, (90, 80)))
    triangle = numpy.array([[1.0, 2.0], [60.0, 9.0], [20.0, 70.0]])
    results.append(layers.mask_ops.rasterize_polygons([[triangle], [triangle, triangle / 2], []], extents, 14))
    results += layers.keypoint_ops.decode_heatmaps(torch.randn(3, 2, 8, 8), extents)
    settings = {{"weights": (10.0, 10.0, 5.0, 5.0), "offset": 1}}
    sizes, anchors = torch.full((2, 2), 120.0), [boxes[:50], boxes[50:]]
    logits, deltas = ([torch.randn(2, n, *s) for s in ((5, 10), (5, 2))] for n in (1, 4))
    results += layers.candidates.rpn_candidates(anchors, logits, deltas, sizes, 20, min_size=2, **settings)
    probabilities, per_class = torch.rand(60, 3), torch.randn(60, 12)
    results += layers.candidates.class_candidates(
        probabilities, per_class, boxes, rois[:, 0].long(), sizes, 0.4, **settings)
    for wrong in (lambda: layers.roi_align(maps[0], boxes, 2, 0.25, 2), lambda: layers.nms(rois, scores, 0.5)):
        try:
            wrong()
        except RuntimeError as error:
            assert "must be (R, " in str(error)
        else:
            raise AssertionError("no error")
print(layers.extension_status())
print(len([w for w in caught if "Slower kernels" in str(w.message)]), *[w.message for w in caught][:1])
torch.save([r.detach() for r in results], {path!r})
"""


@pytest.mark.slow
@needs_build
def test_references_stand_in_with_the_same_results_and_one_warning(tmp_path):
    outputs = {}
    for hidden in (False, True):
        path = tmp_path / f"{hidden}.pt"
        done = run_python(EVERY_OP.format(hidden=hidden, path=str(path)))
        assert done.returncode == 0, done.stderr
        outputs[hidden] = (done.stdout.splitlines(), torch.load(path))
    status, warned = outputs[False][0]
    assert status.startswith("compiled") and warned.startswith("0")
    status, warned = outputs[True][0]
    assert "_C is not built" in status and "pip install --no-build-isolation -e ." in status
    assert warned.startswith("1 Slower kernels of PyTorch and torchvision are in use") and "pip install" in warned
    for compiled, fallback in zip(outputs[False][1], outputs[True][1], strict=True):
        torch.testing.assert_close(compiled, fallback, rtol=1e-4, atol=1e-4, equal_nan=True)
        assert compiled.stride() == fallback.stride()


@pytest.mark.slow
@needs_build
def test_every_instruction_set_gives_the_same_results(tmp_path):
    results, names = {}, []
    for capability in ("default", "avx2", "avx512"):  # PyTorch's names; a processor without it takes its best
        path = tmp_path / f"{capability}.pt"
        done = run_python(EVERY_OP.format(hidden=False, path=str(path)), ATEN_CPU_CAPABILITY=capability)
        assert done.returncode == 0, done.stderr
        names.append(done.stdout.split("(")[1].split(")")[0])
        results[capability] = torch.load(path)
    assert names[0] == "portable"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and {"avx2", "fma"} <= set(cpuinfo.read_text().split()):
        assert names[1] == "avx2" and names[2] in ("avx2", "avx512")
    for capability in ("avx2", "avx512"):
        for portable, other in zip(results["default"], results[capability], strict=True):
            if portable.dtype == torch.int64:  # which boxes survive
                assert torch.equal(portable, other)
            else:
                torch.testing.assert_close(portable, other, equal_nan=True)
            assert portable.stride() == other.stride()


def test_the_library_defines_the_schemas_that_python_knows():
    source = (ROOT / "maskrcnn_benchmark" / "csrc" / "ops.cpp").read_text()
    definitions = re.findall(r"m\.def\(\s*((?:\"[^\"]*\"\s*)+)\)", source)
    strings = ["".join(re.findall(r"\"([^\"]*)\"", definition)) for definition in definitions]
    assert strings == list(schemas.SCHEMAS)


def test_every_op_has_a_reference_of_the_same_arguments():
    assert list(reference.KERNELS) == [schemas.op_name(schema) for schema in schemas.SCHEMAS]
    for schema in schemas.SCHEMAS:
        expected = [argument.name for argument in torch._C.parse_schema(schema).arguments]
        assert list(signature(reference.KERNELS[schemas.op_name(schema)]).parameters) == expected


@needs_build
def test_a_library_of_other_sources_is_refused():
    done = run_python(
        "import torch, maskrcnn_benchmark._C\n"
        "from maskrcnn_benchmark.layers import _extension, schemas\n"
        "schemas.SCHEMAS = ('nms(Tensor boxes, Tensor scores, float threshold) -> Tensor',)\n"
        "_extension._load()"
    )
    assert "ImportError: maskrcnn_benchmark._C was built from other sources: it lacks nms(Tensor boxes" in done.stderr
    assert "pip install --no-build-isolation -e ." in done.stderr


def test_setup_needs_no_network_and_names_itself():
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "--name", "--version"],
        capture_output=True, text=True, cwd=ROOT, env={"FORCE_CPU": "1", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.stdout.split() == ["maskrcnn_benchmark", __version__], done.stderr


def test_force_cuda_without_cuda_says_why():
    if torch.version.cuda is not None:
        code = "import torch; torch.version.cuda = None; import setup; setup.builds_cuda()"
    else:
        code = "import setup; setup.builds_cuda()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"FORCE_CUDA": "1", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode != 0 and "FORCE_CUDA is set, but this PyTorch is not a CUDA build" in done.stderr
