"""What this machine has, what is missing, and the command that mends it. Reads and probes, changes nothing."""

from tokenizer_jobs.doctor.examination import examine
from tokenizer_jobs.doctor.findings import Finding, findings_json, findings_text
from tokenizer_jobs.doctor.software import CPU_TORCH

__all__ = ["CPU_TORCH", "Finding", "examine", "findings_json", "findings_text"]
