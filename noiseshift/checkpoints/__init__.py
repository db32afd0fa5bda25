"""Reading checkpoints from disk into models."""
