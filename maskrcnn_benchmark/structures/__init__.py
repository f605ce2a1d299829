"""Boxes with fields, masks and keypoints of one image, and padded batches of images."""
