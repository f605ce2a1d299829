"""Training and inference loops: where data meets modeling."""
