"""Model families: how to load a denoiser, encode prompts and run its trajectory."""
