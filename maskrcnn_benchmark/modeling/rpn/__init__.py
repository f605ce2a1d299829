"""The first stage: regions of the image that may contain an object."""
