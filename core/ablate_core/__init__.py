"""The trainer core of `ablate`: one trial, from its config to its measurements. Plain torch, pydantic and numpy."""
