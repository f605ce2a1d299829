"""How much memory matching takes, measured in a process that does nothing else."""

from __future__ import annotations

import subprocess
import sys

GROUND_TRUTH, ANCHORS = 1000, 250_000

MEASURED = """
import torch
from maskrcnn_benchmark.modeling.matcher import Matcher

def boxes(count):
    corners = torch.rand(count, 2) * 1000
    return torch.cat([corners, corners + 1 + torch.rand(count, 2) * 300], dim=1)

def peak():  # not ru_maxrss, which a process inherits from its parent
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

gt, anchors, filled = boxes({gt})[None], boxes({anchors}), torch.ones(1, {gt}, dtype=torch.bool)
matcher = Matcher(0.7, 0.3, True)
matcher.match_boxes(gt, filled, anchors[:1000], 1)  # the first call allocates memory that is kept
before = peak()
assert matcher.match_boxes(gt, filled, anchors, 1).labels.shape == (1, {anchors})
print(peak() - before)
"""


def extra_kilobytes() -> int:
    """Growth of the peak of resident memory; Linux only."""
    code = MEASURED.format(gt=GROUND_TRUTH, anchors=ANCHORS)
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def extra_memory() -> str:
    """A sentence with that growth."""
    return (
        f"Matching {GROUND_TRUTH:,} ground-truth boxes with {ANCHORS:,} anchors, low-quality matches included, raises "
        f"the peak of resident memory by {extra_kilobytes() / 1024:.0f} MB; all overlaps at once would be "
        f"{GROUND_TRUTH * ANCHORS * 4 / 2**20:.0f} MB."
    )
