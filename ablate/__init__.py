"""`ablate`: which component choice of a one-step diffusion model matters. Importing it costs nothing."""

__version__ = "0.1.0"
