"""RetinaNet: classes and boxes for every anchor, without proposals and RoI heads."""
