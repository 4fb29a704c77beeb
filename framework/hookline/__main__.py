"""``python -m hookline``, which is what ``torchrun -m hookline train …`` starts on every rank."""

from hookline.cli import main

if __name__ == "__main__":
    main()
