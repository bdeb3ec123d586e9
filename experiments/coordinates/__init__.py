"""The paper's coordinate tasks: where a plain convolution fails and CoordConv does not.

Liu et al., "An intriguing failing of convolutional neural networks and the CoordConv solution",
NeurIPS 2018, arXiv 1807.03247, section 4. Neither Stable-Baselines3 nor Gymnasium is needed.
"""
