"""The refine head: a second look at an enlarged region, shared by masks and keypoints."""
