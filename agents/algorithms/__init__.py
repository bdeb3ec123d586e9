"""A2C and DQN: what is computed when an agent acts and learns."""
