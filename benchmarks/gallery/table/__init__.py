"""Every way to erase many artists from the gallery's models, measured alike."""
