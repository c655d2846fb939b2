"""`python -m rational_jax.cli`, for where the command is not on the path."""

from rational_jax.cli import main

main()
