"""Codes that other tools made, made an output of ours: found, understood, checked and committed like any other."""

from tokenizer_jobs.importing.codecs import CodecClaim
from tokenizer_jobs.importing.driver import ImportResult, import_codes
from tokenizer_jobs.importing.dump import TokenDump
from tokenizer_jobs.importing.inspection import DumpSaid

__all__ = ["CodecClaim", "DumpSaid", "ImportResult", "TokenDump", "import_codes"]
