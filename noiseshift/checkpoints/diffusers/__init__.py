"""Checkpoints as diffusers saves them: folders, their networks, autoencoders and prompts."""
