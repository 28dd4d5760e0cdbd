"""`python -m pipelines.erase MANIFEST --store URI`: the erase job, as `ray job submit` runs it."""

if __name__ == "__main__":
    import sys

    from .__main__ import main

    main(["erase", *sys.argv[1:]])
