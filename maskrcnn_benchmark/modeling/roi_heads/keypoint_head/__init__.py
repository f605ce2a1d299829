"""Keypoint head: features of a RoI to one heat map per keypoint."""
