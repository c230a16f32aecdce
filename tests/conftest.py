"""Settings for every test."""

import torch
from hypothesis import settings

# The tests' tensors are tiny: a second thread costs more than it brings, and pytest-xdist uses the cores.
torch.set_num_threads(1)
settings.register_profile("rdvla", deadline=None)  # a busy machine must not fail a test
settings.load_profile("rdvla")
