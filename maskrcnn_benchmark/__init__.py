"""Faster, Mask and Keypoint R-CNN in the shape of maskrcnn-benchmark, for today's PyTorch."""

from maskrcnn_benchmark.compat import install_import_hook

__version__ = "0.1.0"

install_import_hook()
