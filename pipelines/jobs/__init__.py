"""The jobs: erase, sweep, evaluate and attack, from checked input to printed result."""
