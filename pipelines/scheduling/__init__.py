"""The cluster at hand: its workers, the graph of units, and the driver's loop."""
