"""Detectors: images to losses in training, to detections at inference."""

from maskrcnn_benchmark.modeling.detector.augmented_detector import AugmentedDetector, find_augmentation_problems
from maskrcnn_benchmark.modeling.detector.check import find_config_problems
from maskrcnn_benchmark.modeling.detector.detectors import build_detection_model
from maskrcnn_benchmark.modeling.detector.generalized_rcnn import GeneralizedRCNN

__all__ = [
    "AugmentedDetector",
    "GeneralizedRCNN",
    "build_detection_model",
    "find_augmentation_problems",
    "find_config_problems",
]
