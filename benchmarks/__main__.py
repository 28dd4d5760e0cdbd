"""Run the benchmarks: `python -m benchmarks [CASE ...]`, or `python -m benchmarks gpu`."""

import sys


def main() -> None:
    # Imported here, because the GPU benchmark does without what the others need, such as Ray.
    if sys.argv[1:2] == ["gpu"]:
        from benchmarks.gpu.cli import main as gpu
        from benchmarks.gpu.cli import quiet

        quiet()
        sys.exit(gpu(sys.argv[2:]))
    from benchmarks.cases import main as cases

    cases()


if __name__ == "__main__":
    main()
