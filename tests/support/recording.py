"""Runs that tests record."""

from types import SimpleNamespace

from ragops import bench
from ragops import progress as steps
from ragops.bench import BenchmarkConfig, Server

SERVER = ("base_url", "model", "api_key", "provenance", "sampler")


class Receiver(steps.Progress):
    """Passes the progress of a run on, with the number of errors."""

    def __init__(self, progress):
        self.progress = progress

    def advance(self, done, total, text=""):
        if self.progress:
            self.progress(SimpleNamespace(done=done, total=total, errors=int(text.split()[1])))


def record(*, progress=None, stop=None, **options):
    """Record a run; the options are those of a server and of a configuration together."""
    of_server = {name: options.pop(name) for name in SERVER if name in options}
    config = BenchmarkConfig(**{"with_limits": False} | options)
    with steps.receiver(Receiver(progress)):
        return bench.record(Server(**of_server), config, stop=stop)


def resume(*args, progress=None, **options):
    """Resume a run."""
    with steps.receiver(Receiver(progress)):
        return bench.resume(*args, **options)
