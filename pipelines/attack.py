"""`python -m pipelines.attack SUITE --store URI --of ... --attack ...`: attack checkpoints."""

if __name__ == "__main__":
    import sys

    from .__main__ import main

    main(["attack", *sys.argv[1:]])
