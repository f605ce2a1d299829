"""The coarse keypoint branch: features of a RoI to one heat map per keypoint."""
