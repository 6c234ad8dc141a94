"""`python -m sam3ray` is the `sam3ray` command."""

from sam3ray.cli import main

if __name__ == "__main__":
    main()
