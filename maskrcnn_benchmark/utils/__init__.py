"""Helpers that do not depend on images or models: processes, logs, meters, registries, files, checkpoints."""
