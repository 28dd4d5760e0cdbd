"""`python -m pipelines.sweep MANIFEST --store URI`: compare settings on one collection."""

if __name__ == "__main__":
    import sys

    from .__main__ import main

    main(["sweep", *sys.argv[1:]])
