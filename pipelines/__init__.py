"""The Ray programs and the command line; everything numerical is in `conceptprune`."""
