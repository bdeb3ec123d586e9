"""What holds for every test."""

import torch

# Networks here are small and tests may share the machine: threads that wait for each other cost
# more than they bring.
torch.set_num_threads(1)
