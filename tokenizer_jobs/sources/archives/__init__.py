"""Archives: members of WebDataset tars, by an index of where they are."""
