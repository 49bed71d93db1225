"""What is fast, by how much, and the commands that say so. Results are in `RESULTS.md`."""
