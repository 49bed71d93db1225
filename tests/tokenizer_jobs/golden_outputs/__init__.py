"""A small output of each format version, made by the code of its time and never made anew; `make.py` says how."""
