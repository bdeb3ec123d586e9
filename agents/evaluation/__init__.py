"""Trained agents played on whole games, scored and filmed."""
