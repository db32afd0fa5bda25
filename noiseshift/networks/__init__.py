"""Networks: the DiT/SiT transformer and the small networks that read noise levels and classes."""
