"""What an audit may find: each kind with what likely made it, and what to do."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["EXPLAINED", "NOTES", "Explanation", "Kind"]


class Kind(StrEnum):
    """A kind of finding."""

    UNREADABLE = "unreadable"
    DOUBLED_ID = "doubled_id"
    DOUBLED_CODES = "doubled_codes"
    EQUAL_CODES = "equal_codes"
    """Under two ids, the audio of which cannot be compared."""
    REPEATED = "repeated"
    """An item's codes twice in a row."""
    MISSING_CODES = "missing_codes"
    MISSING_AUDIO = "missing_audio"
    UNREADABLE_AUDIO = "unreadable_audio"
    SHIFTED = "shifted"
    SWAPPED = "swapped"
    CUT_SHORT = "cut_short"
    LAST_FRAME_DROPPED = "last_frame_dropped"
    TOO_LONG = "too_long"
    LATE = "late"
    """Frames of something else in front."""
    TRIMMED = "trimmed"
    """Of a part of the audio that begins later."""
    DISPLACED = "displaced"
    """Begins a little before or behind the audio."""
    LOUDNESS = "loudness"
    SEAMS = "seams"
    LAST_FRAME_DIFFERS = "last_frame_differs"
    LEFT_CHANNEL = "left_channel"
    RIGHT_CHANNEL = "right_channel"
    SUMMED = "summed"
    INTERLEAVED = "interleaved"
    RESHAPED_CHANNELS = "reshaped_channels"
    NOT_RESAMPLED = "not_resampled"
    WRONG_RATE = "wrong_rate"
    PEAK_NORMALISED = "peak_normalised"
    INT16_SCALE = "int16_scale"
    OTHER_WEIGHTS = "other_weights"
    OTHER_AUDIO = "other_audio"
    """Between chance and agreement, for no reason that was tried."""
    CODEBOOKS = "codebooks"
    MIXED_CODEBOOKS = "mixed_codebooks"
    MIXED_LAYOUT = "mixed_layout"
    TRANSPOSED = "transposed"
    RESHAPED = "reshaped"
    OUT_OF_RANGE = "out_of_range"
    NARROW_TYPE = "narrow_type"
    DELAYED = "delayed"
    TIME_MAJOR = "time_major"
    OFFSETS = "offsets"
    SAME_AUDIO = "same_audio"
    REFERENCE_RESAMPLER = "reference_resampler"
    CLOSE = "close"


NOTES = frozenset(
    {
        Kind.TIME_MAJOR,
        Kind.OFFSETS,
        Kind.SAME_AUDIO,
        Kind.EQUAL_CODES,
        Kind.REFERENCE_RESAMPLER,
        Kind.CLOSE,
        Kind.DISPLACED,
    }
)
"""Kinds that are worth a line and are no faults."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What people need besides the count."""

    cause: str
    remedy: str


_TOKENIZE = "tokenize these items again"
_ALL = "tokenize the audio again; nothing of these codes can be used"

EXPLAINED = {
    Kind.UNREADABLE: Explanation("a write that was interrupted, or another kind of file among them", _TOKENIZE),
    Kind.DOUBLED_ID: Explanation(
        "a second run wrote what the first had, or a sampler padded its last batch with items from the start",
        "keep one of each; where their codes differ, the one that agrees with the audio",
    ),
    Kind.DOUBLED_CODES: Explanation(
        "a variable kept from the item before, or a failed item replaced by another one", _TOKENIZE
    ),
    Kind.EQUAL_CODES: Explanation(
        "the same audio under two ids, of which one is not here", "drop one, if it is not meant"
    ),
    Kind.REPEATED: Explanation(
        "a second run appended to the files of the first", "cut each in half, or tokenize into an empty place"
    ),
    Kind.MISSING_CODES: Explanation(
        "items that failed or were dropped without a word (drop_last, an interrupted run)",
        "tokenize these items again; where the dump is of a part of the audio on purpose, give that part as --audio (a "
        "glob or a manifest)",
    ),
    Kind.MISSING_AUDIO: Explanation(
        "audio that was removed since, or ids made by another rule", "remove them, or say --id"
    ),
    Kind.UNREADABLE_AUDIO: Explanation("damaged or vanished audio files", "mend them; their codes cannot be checked"),
    Kind.SHIFTED: Explanation(
        "codes and ids were kept in two lists, and an item was dropped from, or doubled in, one of them",
        "give the codes back to their items by the offset, or tokenize again",
    ),
    Kind.SWAPPED: Explanation("two items changed places, as where results come back unordered", "swap them back"),
    Kind.CUT_SHORT: Explanation(
        "a maximal length in the script, or a batch that was cut to its shortest item", _TOKENIZE
    ),
    Kind.LAST_FRAME_DROPPED: Explanation(
        "the number of frames was rounded down, so that a part-filled last frame is lost",
        "harmless to most trainings; else tokenize again",
    ),
    Kind.TOO_LONG: Explanation(
        "the padding of a batch was kept", "cut each to ceil(samples / hop) frames; the rest is no audio"
    ),
    Kind.LATE: Explanation(
        "padding on the left, or a buffer that still held frames of another item", "cut them off, or tokenize again"
    ),
    Kind.TRIMMED: Explanation(
        "silence was trimmed, or speech cut out, before the codec",
        "nothing, if that is meant and the codes are never put beside the times of the audio; else tokenize again",
    ),
    Kind.DISPLACED: Explanation(
        "another decoder (those of MP3 and AAC differ in what they leave out at the beginning), or a little padding",
        "nothing, unless codes are to be the same to the bit",
    ),
    Kind.LOUDNESS: Explanation(
        "loudness was normalised, or a gain applied, before the codec", "nothing, if that is meant; else tokenize again"
    ),
    Kind.SEAMS: Explanation(
        "long audio was cut into chunks, and the codec began each of them afresh",
        "tokenize again in one go (long_audio: exact), or tell the model where the chunks begin",
    ),
    Kind.LAST_FRAME_DIFFERS: Explanation(
        "items were padded on the right to batches, and a part-filled last frame saw the padding",
        "harmless to most trainings; else tokenize again",
    ),
    Kind.LEFT_CHANNEL: Explanation("only the first channel was taken (audio[0])", "tokenize the mix, if it is meant"),
    Kind.RIGHT_CHANNEL: Explanation("only the second channel was taken", "tokenize the mix, if it is meant"),
    Kind.SUMMED: Explanation("channels were added, where their mean was meant", _ALL),
    Kind.INTERLEAVED: Explanation("left and right samples were read as one channel, twice as long", _ALL),
    Kind.RESHAPED_CHANNELS: Explanation("[n, 2] was reshaped to [2, n] where it should be transposed", _ALL),
    Kind.NOT_RESAMPLED: Explanation("samples were fed to the codec at the rate of their file", _ALL),
    Kind.WRONG_RATE: Explanation("files were taken to have another sample rate than they have", _ALL),
    Kind.PEAK_NORMALISED: Explanation("audio was scaled to full scale first", "tokenize again, if that is not meant"),
    Kind.INT16_SCALE: Explanation("16-bit samples were not divided by 32768", _ALL),
    Kind.OTHER_WEIGHTS: Explanation(
        "codes of another checkpoint (shapes do not tell), or of audio with these names that is not this",
        "name the codec that made them by --codec, or tokenize again",
    ),
    Kind.OTHER_AUDIO: Explanation(
        "the same codec over audio that was changed first: loudness, filters, denoising, augmentation, another version",
        "find out what was done to the audio, or tokenize again",
    ),
    Kind.CODEBOOKS: Explanation(
        "another bandwidth than said, such as the default of a library",
        "the first codebooks of a higher bandwidth are those of a lower one: cut them, or tokenize again",
    ),
    Kind.MIXED_CODEBOOKS: Explanation(
        "two runs at different bandwidths in one place", "cut all of them to the fewest, which is the lower bandwidth"
    ),
    Kind.MIXED_LAYOUT: Explanation("two scripts, or two versions of one, wrote to one place", "transpose the odd ones"),
    Kind.TRANSPOSED: Explanation("codes are [T, K] where [K, T] was said, or the other way round", "transpose them"),
    Kind.RESHAPED: Explanation(
        "a reshape (or view) where a transpose was meant, so that codebooks and frames are mixed",
        "reshape them back, then transpose; nothing is lost",
    ),
    Kind.OUT_OF_RANGE: Explanation("special ids, offsets or damage", "take them out; they name no entry"),
    Kind.NARROW_TYPE: Explanation("codes of 10 bits or more were stored in 8", _ALL),
    Kind.DELAYED: Explanation(
        "the delay pattern of a language model was stored in place of the codes",
        "shift codebook k back by k (DelayPattern.invert) before anything else reads them",
    ),
    Kind.TIME_MAJOR: Explanation("the habit of some tools", "read them as [T, K]; `import-codes` turns them"),
    Kind.OFFSETS: Explanation("ids of a flat vocabulary", "take k x size off codebook k; `import-codes` does"),
    Kind.SAME_AUDIO: Explanation("the same audio under two ids", "drop one, if it is not meant"),
    Kind.REFERENCE_RESAMPLER: Explanation(
        "audio was resampled by EnCodec's own convert_audio", "recipe.audio.resampler: reference makes the same codes"
    ),
    Kind.CLOSE: Explanation(
        "another resampler, decoder or precision (tf32, bf16, fp16) than ours",
        "nothing, unless codes are to be the same to the bit",
    ),
}
