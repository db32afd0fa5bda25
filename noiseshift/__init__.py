"""noiseshift: measure, explain and correct the noise shift of diffusion and flow models."""
