"""Refine head: looks again at an enlarged region around each RoI and corrects what the other heads predicted there."""
