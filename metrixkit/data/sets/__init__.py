"""Readers of data sets, one file each, and what they read with."""
