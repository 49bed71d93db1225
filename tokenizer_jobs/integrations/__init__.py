"""The service's codes in other people's loops: `datasets.map` (`datasets_map`) and Ray Data (`ray_data`).

Both give a column of audio the same way through decoding, channels, resampling and encoding as a job does.
"""
