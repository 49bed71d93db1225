"""Tables: rows of Parquet and Arrow files, by themselves or as Hugging Face datasets."""
