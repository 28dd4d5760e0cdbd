"""The gallery: natural benchmark models that draw a hundred and twenty-eight artists."""
