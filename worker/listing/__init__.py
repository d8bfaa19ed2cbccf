"""Writes any manifest as one Parquet list, which every pod then reads in part."""
