# The built-in calibration text: compressed with zstd at build time and linked into pw_calib.
