"""Where items come from. `make_source` builds a source from its configuration, here and in every worker."""

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.source_config import (
    DemoSource,
    FilesSource,
    HubSource,
    ManifestSource,
    ParquetSource,
    PluginSource,
    SourceConfig,
    TarSource,
)
from tokenizer_jobs.sources.header import HeaderFacts, probe
from tokenizer_jobs.sources.listing import Listing, Source, list_names
from tokenizer_jobs.sources.locations import is_stripped, lives_in_memory, local_locations, public_source
from tokenizer_jobs.sources.read_ahead import ReadAhead

__all__ = [
    "HeaderFacts",
    "Listing",
    "ReadAhead",
    "Source",
    "is_stripped",
    "list_names",
    "lives_in_memory",
    "local_locations",
    "make_source",
    "probe",
    "public_source",
]


def make_source(config: SourceConfig) -> Source:
    """Build the source that `selection.source` describes; nothing is opened yet.

    Raises:
        ConfigError: a source of one's own cannot be imported.
    """
    # Imported where they are wanted: all of them are a third of a decode worker's start, with pyarrow's Parquet.
    match config:
        case FilesSource():
            from tokenizer_jobs.sources.files import AudioFiles

            return AudioFiles(config)
        case ManifestSource():
            from tokenizer_jobs.sources.manifest.source import Manifests

            return Manifests(config)
        case TarSource():
            from tokenizer_jobs.sources.archives.tar import TarArchives

            return TarArchives(config)
        case ParquetSource():
            from tokenizer_jobs.sources.tables.parquet import ParquetRows

            return ParquetRows(config)
        case HubSource():
            from tokenizer_jobs.sources.tables.hub import HubRows

            return HubRows(config)
        case DemoSource():
            from tokenizer_jobs.sources.demo import DemoClips

            return DemoClips()
        case PluginSource():
            source: Source = config.load()
            return source
        case _:
            raise ConfigError(f"selection.source.kind = {config.kind!r} cannot be read yet")
