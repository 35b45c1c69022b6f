"""`python -m gmijax` is `gmijax`."""

from gmijax.cli import main

main()
