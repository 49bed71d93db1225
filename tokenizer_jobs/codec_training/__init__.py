"""Training of a codec on audio, and of its language model on codes: crops, processes, checkpoints and curves."""

from tokenizer_jobs.codec_training.config import TrainingJob
from tokenizer_jobs.codec_training.launch import TrainingResult, train_codec
from tokenizer_jobs.codec_training.lm_config import LanguageModelJob
from tokenizer_jobs.codec_training.lm_launch import train_language_model

__all__ = ["LanguageModelJob", "TrainingJob", "TrainingResult", "train_codec", "train_language_model"]
