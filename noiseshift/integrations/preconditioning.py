"""The denoiser around a network that was trained under Karras et al.'s preconditioning (arXiv 2206.00364, table 1)."""

from __future__ import annotations

from torch import Tensor, nn


class EdmDenoiser(nn.Module):
    """D(x, sigma) = c_skip x + c_out F(c_in x, log(sigma) / 4), for states x0 + sigma eps of any shape (B, ...).

    Its card says `prediction: x0`, `time: {conditioning: sigma}` and a variance-exploding schedule.

    Args:
        network: F, called with the scaled state, c_noise = log(sigma) / 4 of shape (B,), and what else it is given.
        sigma_data: Standard deviation of the data in its training.
    """

    def __init__(self, network: nn.Module, sigma_data: float = 0.5):
        super().__init__()
        if not sigma_data > 0:
            raise ValueError(f"sigma_data must be above 0, got {sigma_data}")
        self.network = network
        self.sigma_data = sigma_data

    def forward(self, x: Tensor, sigma: Tensor, *more: Tensor) -> Tensor:
        """The denoised states.

        Args:
            x: (B, ...) states.
            sigma: (B,) their noise levels.
            more: What the network takes besides, such as labels.
        """
        noise = sigma.reshape(-1, *[1] * (x.ndim - 1)).to(x)
        total = (noise**2 + self.sigma_data**2).sqrt()
        answer: Tensor = self.network(x / total, (sigma.log() / 4).to(x).reshape(-1), *more)
        return x * (self.sigma_data / total) ** 2 + answer * noise * self.sigma_data / total
