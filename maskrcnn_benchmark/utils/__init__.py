"""What has nothing to do with images: processes, logs, meters, files, checkpoints."""
