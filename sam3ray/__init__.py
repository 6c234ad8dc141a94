"""SAM 3 over video datasets, on Ray: RLE masks, boxes, scores and ids in Parquet, committed exactly once."""

__version__ = "0.1.0"
