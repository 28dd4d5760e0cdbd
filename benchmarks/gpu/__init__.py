"""What a device does with the library: speed, memory and correctness, without Ray or network."""
