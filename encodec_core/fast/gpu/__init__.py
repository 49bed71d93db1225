"""Encoding and decoding where work should come in large pieces and never wait: on a GPU."""
