"""Metrics for Prometheus, and the secret for what monitors may read."""

import os
import zlib
from pathlib import Path

from config.settings.base import VAR, env
from config.settings.network import PORT

env.section("Monitoring")

METRICS: bool = env.boolean(
    "METRICS",
    default=False,
    help="Count, and serve [metrics](monitoring.md#metrics) for Prometheus at `/metrics`.",
)
METRICS_SECRET: str | None = env.text(
    "METRICS_SECRET",
    help="The secret with which other machines than this one may read `/metrics`, and all may read "
    "[what is degraded](monitoring.md#readiness) at `/ready`. At least 32 random characters.",
)
if METRICS_SECRET and (len(METRICS_SECRET) < 32 or not METRICS_SECRET.isascii()):
    env.add_error("METRICS_SECRET", "must be at least 32 characters of random ASCII text.")
_shm = Path("/dev/shm")  # noqa: S108 (core.metrics.slots checks who owns the folder in it)
_folder: Path = env.file_path(
    "METRICS_FOLDER",
    default=_shm if _shm.is_dir() else VAR,
    default_help="`/dev/shm`, where there is one; else `VAR_DIR`",
    help="A folder in memory, in which the workers make a folder for their counts.",
)
# One for each platform that runs on this machine: they differ by user, VAR_DIR or port.
METRICS_FILES: Path = (
    _folder / f"comfyui-keys-metrics-{os.geteuid()}-{zlib.crc32(bytes(VAR)):08x}-{PORT}"
)
if METRICS and not _folder.is_dir() and _folder != VAR:
    env.add_error("METRICS_FOLDER", "names no folder.")
