"""Runs that tests record."""

from ragops import bench
from ragops.bench import BenchmarkConfig, Server

SERVER = ("base_url", "model", "api_key", "provenance", "sampler")


def record(*, progress=None, stop=None, **options):
    """Record a run; the options are those of a server and of a configuration together."""
    of_server = {name: options.pop(name) for name in SERVER if name in options}
    config = BenchmarkConfig(**{"with_limits": False} | options)
    return bench.record(Server(**of_server), config, progress=progress, stop=stop)
