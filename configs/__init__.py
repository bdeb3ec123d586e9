"""What is asked: typed settings, their defaults, and the names of networks."""
