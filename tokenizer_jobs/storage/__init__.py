"""The only room that knows where bytes live: local folders by calls of the operating system, the rest by fsspec."""

from tokenizer_jobs.storage.faults import CredentialsError, local_write_faults
from tokenizer_jobs.storage.fetching import Wanted, start_fetch
from tokenizer_jobs.storage.inputs import SkippedEntry, SourceFile, list_source_files, open_source, stat_source
from tokenizer_jobs.storage.numbering import listed_numbers, numbers_in
from tokenizer_jobs.storage.outputs import STAGING_FOLDER, Storage, StoredFile, staged_by_the_dead, staging_name
from tokenizer_jobs.storage.urls import is_url, local_path, public_uri

__all__ = [
    "STAGING_FOLDER",
    "CredentialsError",
    "SkippedEntry",
    "SourceFile",
    "Storage",
    "StoredFile",
    "Wanted",
    "is_url",
    "list_source_files",
    "listed_numbers",
    "local_path",
    "local_write_faults",
    "numbers_in",
    "open_source",
    "public_uri",
    "staged_by_the_dead",
    "staging_name",
    "start_fetch",
    "stat_source",
]
