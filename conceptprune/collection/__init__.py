"""Activations of a denoiser's prunable linears, summed into statistics."""
