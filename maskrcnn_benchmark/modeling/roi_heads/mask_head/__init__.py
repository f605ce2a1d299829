"""The coarse mask branch: features of a RoI to one mask per class."""
