"""Faster, Mask and Keypoint R-CNN in the shape of maskrcnn-benchmark, for today's PyTorch."""

__version__ = "0.1.0"
