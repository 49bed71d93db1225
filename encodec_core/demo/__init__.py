"""The small codec inside this package, `EncodecModel.from_pretrained("demo")`, and the script that makes it."""
