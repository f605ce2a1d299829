"""The devices that a device-parametrised test runs on."""

import torch

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
