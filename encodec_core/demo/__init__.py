"""The small codec inside this package, `EncodecModel.from_pretrained("demo")`: its files, and the script that makes
them."""
