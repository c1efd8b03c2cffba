import functools
import http.server
import threading
from types import SimpleNamespace

import pytest

from stages.datasets import sources


@pytest.fixture
def publisher(tmp_path, monkeypatch):
    """A web server in the publishers' place: its `url`, the `folder` that it serves, the `cache` of downloads."""
    folder, cache = tmp_path / "published", tmp_path / "cache"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(sources.pooch, "os_cache", lambda project: cache)
        yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", folder=folder, cache=cache)
        server.shutdown()
