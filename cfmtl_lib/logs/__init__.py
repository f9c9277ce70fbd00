"""Incentive logs in memory, in Parquet files and from tables."""

from cfmtl_lib.logs.encoding import FrameEncoder
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.parquet_log import ParquetLog
from cfmtl_lib.logs.schema import InputSchema

__all__ = [
    "FrameEncoder",
    "IncentiveLog",
    "InputSchema",
    "ParquetLog",
]
