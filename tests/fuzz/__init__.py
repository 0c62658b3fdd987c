"""Structure-aware fuzzing of what a user hands to the command line; `python -m tests.fuzz --help`."""
