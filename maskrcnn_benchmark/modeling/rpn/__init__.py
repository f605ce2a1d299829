"""The first stage: where in the image there could be an object."""
