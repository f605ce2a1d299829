"""Mask head: features of a RoI to one mask per class."""
