"""`python -m tokenizer_jobs` is the command `tokenizer-jobs`."""

from tokenizer_jobs.cli import command_line

if __name__ == "__main__":
    command_line()
