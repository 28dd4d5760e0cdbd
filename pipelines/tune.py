"""`python -m pipelines.tune MANIFEST SUITE --store URI`: find each concept's least strength."""

if __name__ == "__main__":
    import sys

    from .__main__ import main

    main(["tune", *sys.argv[1:]])
