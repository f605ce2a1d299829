"""Images of articulated people with masks and keypoints, drawn rather than photographed.

A training set that needs no download: `body` samples a pose and projects it, `rendering` draws one person, `scene`
puts several of them before a cluttered background and writes what can be seen of each as COCO annotations.
"""

from .scene import SceneSettings, render_scene

__all__ = ["SceneSettings", "render_scene"]
