"""Manifests: lines of JSON, CSV or TSV that name recordings and cuts of them."""
