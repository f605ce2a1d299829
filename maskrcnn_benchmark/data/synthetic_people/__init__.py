"""Drawn images of articulated people with masks and keypoints: a training set that needs no download.

`body` samples a pose and projects it, `rendering` draws one person, `scene` draws several people in front of a
cluttered background and annotates what is visible and what is hidden of them, `dataset` writes files.
"""

from .dataset import SPLITS, write_split
from .scene import SceneSettings, render_scene

__all__ = ["SPLITS", "SceneSettings", "render_scene", "write_split"]
