"""SB3's algorithms as this project runs them: training, checkpoints, evaluation."""
