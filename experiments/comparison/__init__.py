"""A comparison of networks, and settings, on games: trained, judged game by game, and reported."""
