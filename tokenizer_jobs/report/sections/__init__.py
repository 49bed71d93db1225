"""The sections of the page, one module each: records in, markup out."""

from tokenizer_jobs.report.sections.codes import codes_section
from tokenizer_jobs.report.sections.overview import overview_section
from tokenizer_jobs.report.sections.provenance import provenance_section
from tokenizer_jobs.report.sections.rejects import rejects_section
from tokenizer_jobs.report.sections.rows import rows_section
from tokenizer_jobs.report.sections.samples import samples_section
from tokenizer_jobs.report.sections.work import work_section

__all__ = [
    "codes_section",
    "overview_section",
    "provenance_section",
    "rejects_section",
    "rows_section",
    "samples_section",
    "work_section",
]
