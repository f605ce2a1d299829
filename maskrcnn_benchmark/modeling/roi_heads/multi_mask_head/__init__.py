"""Multi-mask head: features of a RoI to several named masks, such as the visible part and the whole of an object."""
