"""`python -m pipelines.evaluate SUITE --store URI --of ...`: score checkpoints side by side."""

if __name__ == "__main__":
    import sys

    from .__main__ import main

    main(["evaluate", *sys.argv[1:]])
