"""Whether codes that anybody made stand for their audio: counted over all of them, and encoded again in a sample."""

from tokenizer_jobs.auditing.audit import AuditResult, audit
from tokenizer_jobs.auditing.findings import Finding
from tokenizer_jobs.auditing.kinds import Kind

__all__ = ["AuditResult", "Finding", "Kind", "audit"]
