"""What is wrong with a compressed file.

ValueError
└── EcdcError               not a file of ours or the reference's, or made by another codec: another file is needed
    └── EcdcTruncatedError  the stream ended early; an EOFError too, which is what the reference raises
"""

__all__ = ["EcdcError", "EcdcTruncatedError"]


class EcdcError(ValueError):
    """The bytes are no valid `.ecdc` stream, or not one of the codec at hand."""


class EcdcTruncatedError(EcdcError, EOFError):
    """The stream ended before all codes were read."""
