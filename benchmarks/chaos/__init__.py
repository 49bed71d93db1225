"""The demonstration by violence: whatever is killed, every item ends exactly once."""
