"""The mathematics of diffusion and flow models: schedules, predictions, guidance, noise and samplers."""
