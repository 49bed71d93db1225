"""Proof that an output is whole: counts, hashes, receipts, and the rows themselves."""

from tokenizer_jobs.verification.output import VerifyReport, VerifyResult, verify, verify_output

__all__ = ["VerifyReport", "VerifyResult", "verify", "verify_output"]
