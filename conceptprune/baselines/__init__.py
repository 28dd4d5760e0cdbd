"""Other ways to erase, on the same footing: UCE, RECE, controls, and ESD's checkpoints."""
