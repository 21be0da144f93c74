"""Downloads from a server on this machine that can be told to misbehave."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data import download

CONTENT = bytes(range(256)) * 1000


class Server(ThreadingHTTPServer):
    """Serves `files` (path: bytes) with ranges; notes each request's path and Range header."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.etags = {}
        self.cut = None  # send only so many bytes of the announced ones
        self.ranges = True
        self.requests = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.requests.append((self.path, wanted))
        content = server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        start = int(wanted[len("bytes=") : -1]) if wanted and server.ranges else 0
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("ETag", server.etags.get(self.path, ""))
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", server.etags.get(self.path, ""))
        self.end_headers()
        self.wfile.write(content[start:][: server.cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    server.files["/a.png"] = CONTENT
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def closed_url(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    server.server_close()
    return server.url


SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5_ETAG = f'"{hashlib.md5(CONTENT).hexdigest()}"'


def fetch(server, tmp_path, **options):
    download.fetch(server.url + "/a.png", tmp_path / "a.png", **options)


def assert_fetched(tmp_path):
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == CONTENT


@pytest.mark.parametrize("etag, sha256", [("", SHA256), (MD5_ETAG, None), ('"d41d8cd9-2"', None), ("", None)])
def test_fetch_verifies_by_digest_or_etag(server, tmp_path, etag, sha256):
    server.etags["/a.png"] = etag
    fetch(server, tmp_path, sha256=sha256)
    assert_fetched(tmp_path)


def test_broken_transfer_is_continued(server, tmp_path):
    server.cut = 100_000
    with pytest.raises(download.DownloadError, match="100000 of 256000 bytes; run again"):
        fetch(server, tmp_path, sha256=SHA256)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png.part"]
    server.cut = None
    fetch(server, tmp_path, sha256=SHA256)
    assert server.requests == [("/a.png", None), ("/a.png", "bytes=100000-")]
    assert_fetched(tmp_path)


def test_complete_part_is_taken(server, tmp_path):
    (tmp_path / "a.png.part").write_bytes(CONTENT)
    server.etags["/a.png"] = MD5_ETAG
    fetch(server, tmp_path)
    assert_fetched(tmp_path)


@pytest.mark.parametrize("part", [b"other" * 100, CONTENT + b"longer", b"x" * len(CONTENT)])
def test_part_of_another_file_is_fetched_anew(server, tmp_path, part):
    (tmp_path / "a.png.part").write_bytes(part)
    fetch(server, tmp_path, sha256=SHA256)
    assert server.requests[-1] == ("/a.png", None)
    assert_fetched(tmp_path)


def test_server_without_ranges(server, tmp_path):
    (tmp_path / "a.png.part").write_bytes(CONTENT[:1000])
    server.ranges = False
    fetch(server, tmp_path, sha256=SHA256)
    assert_fetched(tmp_path)


@pytest.mark.parametrize("etag, sha256", [("", "0" * 64), (f'"{"0" * 32}"', None)])
def test_wrong_checksum_leaves_nothing(server, tmp_path, etag, sha256):
    server.etags["/a.png"] = etag
    with pytest.raises(download.DownloadError, match="wrong checksum"):
        fetch(server, tmp_path, sha256=sha256)
    assert list(tmp_path.iterdir()) == []


def test_missing_file(server, tmp_path):
    with pytest.raises(download.DownloadError, match="404"):
        download.fetch(server.url + "/b.png", tmp_path / "b.png")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def kodak(server, monkeypatch):
    contents = [b"picture %d" % index for index in range(1, 25)]
    for index, content in enumerate(contents, start=1):
        server.files[f"/kodim{index:02}.png"] = content
    monkeypatch.setattr(download, "KODAK_URL", server.url)
    monkeypatch.setattr(download, "KODAK_SHA256", tuple(hashlib.sha256(content).hexdigest() for content in contents))
    return server


def test_kodak_fetches_what_is_not_there(kodak, tmp_path, capsys):
    assert download.main(["kodak", "--output", str(tmp_path), "--count", "3"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kodim01.png", "kodim02.png", "kodim03.png"]
    (tmp_path / "kodim02.png").write_bytes(b"damaged")
    kodak.requests.clear()
    assert download.main(["kodak", "--output", str(tmp_path)]) == 0
    assert len(kodak.requests) == 22  # all but the intact two
    assert (tmp_path / "kodim02.png").read_bytes() == b"picture 2"
    assert "24 of 24" in capsys.readouterr().out


def test_one_failed_file_does_not_stop_the_others(kodak, tmp_path, capsys):
    del kodak.files["/kodim02.png"]
    kodak.files["/kodim03.png"] = b"changed"
    assert download.main(["kodak", "--output", str(tmp_path), "--count", "5"]) == 1
    streams = capsys.readouterr()
    assert "3 of 5" in streams.out
    assert "kodim02.png: the server answers 404" in streams.err
    assert "kodim03.png: wrong checksum" in streams.err


def test_unreachable_is_one_line(closed_url, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(download, "KODAK_URL", closed_url)
    monkeypatch.setattr(download, "OPENIMAGES_LIST_URL", closed_url + "/list.csv")
    for corpus in ("kodak", "openimages"):
        assert download.main([corpus, "--output", str(tmp_path)]) == 1
        said = [line for line in capsys.readouterr().err.splitlines() if "not reachable" in line]
        assert len(said) == 1 and closed_url in said[0]


def test_open_images_by_list(server, tmp_path, monkeypatch):
    ids = ["00000000000000ff", "0000000000000001", "00000000000000aa", "../../etc/passwd"]
    rows = "".join(f"{name},validation\n" for name in ids)
    server.files["/list.csv"] = ("ImageID,Subset\n" + rows).encode()
    for name in ids:
        server.files[f"/{name}.jpg"] = name.encode()
        server.etags[f"/{name}.jpg"] = f'"{hashlib.md5(name.encode()).hexdigest()}"'
    monkeypatch.setattr(download, "OPENIMAGES_URL", server.url)
    monkeypatch.setattr(download, "OPENIMAGES_LIST_URL", server.url + "/list.csv")
    for count, names in (("2", ids[1:3]), ("9", ids[:3])):
        assert download.main(["openimages", "--output", str(tmp_path), "--count", count]) == 0
        found = sorted(path.stem for path in tmp_path.glob("*.jpg"))
        assert found == sorted(names)
    assert [path for path, _ in server.requests].count("/list.csv") == 1


@pytest.mark.parametrize("arguments", [["kodak", "--count", "25"], ["openimages", "--count", "0"], ["imagenet"]])
def test_command_line_refuses(arguments):
    with pytest.raises(SystemExit) as stop:
        download.main(arguments)
    assert stop.value.code == 2


def test_digests_are_of_24_different_pictures():
    assert len(set(download.KODAK_SHA256)) == 24
    assert all(len(digest) == 64 for digest in download.KODAK_SHA256)
