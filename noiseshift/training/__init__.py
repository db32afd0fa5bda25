"""Training with noise-condition dropout, and a short fine-tune for a checkpoint without it."""

from noiseshift.training.train import Average, Objective, Target, TrainingConfig, train

__all__ = ["Average", "Objective", "Target", "TrainingConfig", "train"]
