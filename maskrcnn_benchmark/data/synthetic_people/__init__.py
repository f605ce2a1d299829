"""Images of articulated people with masks and keypoints, drawn rather than photographed.

A training set that needs no download: `body` samples a pose and projects it, `rendering` draws one person, `scene`
puts several of them before a cluttered background and annotates what can be seen of each, `dataset` writes files.
"""

from .dataset import SPLITS, write_split
from .scene import SceneSettings, render_scene

__all__ = ["SPLITS", "SceneSettings", "render_scene", "write_split"]
