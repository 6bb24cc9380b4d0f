"""A registry that lies: for each name another fault, over plain HTTP. Images are honest documents about hostile layers, or not even that."""

import gzip
import hashlib
import http.server
import io
import json
import os
import tarfile
import threading

from registry import ARCHITECTURE, busybox

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def digest(content):
    """As registries name content."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def archive(entries):
    """A layer of raw entries (name, kind, more), written as they are: names are not made harmless. Gives plain and packed bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, more in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, more.get("mode", 0o755)
            info.linkname = more.get("to", "")
            info.devmajor, info.devminor = more.get("device", (0, 0))
            content = more.get("content", b"")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    plain = out.getvalue()
    return plain, gzip.compress(plain, 9)


class Liar:
    """The registry; images are added by `add`, faults of the protocol by `fault`."""

    def __init__(self, port=5445):
        self.host, self.blobs, self.tags, self.faults, self.asked = f"127.0.0.1:{port}", {}, {}, {}, []
        self.over = threading.Event()
        liar = self

        class Handler(http.server.BaseHTTPRequestHandler):
            """One request."""
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                """Says nothing."""

            def do_GET(self):
                """Answers as the name asks for."""
                try:
                    liar.answer(self)
                except OSError:
                    self.close_connection = True  # the other side has had enough

            def do_HEAD(self):
                """The same without the content; engines ask so."""
                self.do_GET()

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        """Ends it, and whoever waits in it."""
        self.over.set()
        self.server.shutdown()
        self.server.server_close()

    def name(self, name):
        """What a task calls an image."""
        return f"{self.host}/bad/{name}:1"

    def add(self, name, layers, config=None, change=None):
        """An image of layers (plain, packed) on top of a shell; `change` falsifies the manifest. Gives the manifest."""
        layers = [busybox(), *layers]
        document = json.dumps({"os": "linux", "architecture": ARCHITECTURE, "config": {"Env": ["PATH=/bin"], **(config or {})},
                               "rootfs": {"type": "layers", "diff_ids": [digest(plain) for plain, _ in layers]}}).encode()
        described = lambda kind, content: {"mediaType": kind, "digest": digest(content), "size": len(content)}
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described(CONFIG, document),
                    "layers": [described(LAYER, packed) for _, packed in layers]}
        for content in [document, *(packed for _, packed in layers)]:
            self.blobs[digest(content)] = content
        if change:
            change(manifest)
        self.tags[name] = json.dumps(manifest).encode()
        return manifest

    def fault(self, name, kind, answer):
        """What answers requests for `kind` (`manifests` or a digest) of `name`: a function of the handler and of the honest content."""
        self.faults[name, kind] = answer

    def answer(self, handler):
        """Finds content or fault by the path."""
        parts = handler.path.split("?")[0].strip("/").split("/")
        self.asked.append(handler.path)
        if len(parts) != 5 or parts[:2] != ["v2", "bad"]:
            return send(handler, b"{}")
        name, kind, what = parts[2:]
        content = self.tags.get(name) if kind == "manifests" else self.blobs.get(what)
        fault = self.faults.get((name, "manifests" if kind == "manifests" else what))
        if fault:
            fault(handler, content)
        elif content is None:
            send(handler, b"{}", 404)
        else:
            send(handler, content, kind=MANIFEST if kind == "manifests" else "application/octet-stream")


def send(handler, content, status=200, length=None, kind="application/octet-stream"):
    """An answer; its length may be a lie."""
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    if kind == MANIFEST:
        handler.send_header("Docker-Content-Digest", digest(content))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(content)


def fails(status):
    """Always this status."""
    return lambda handler, content: send(handler, b"no", status)


def claims(more):
    """Says that there is more, or less, than comes; then hangs up."""
    def answer(handler, content):
        handler.close_connection = True
        send(handler, content, length=len(content) + more, kind=MANIFEST)
    return answer


def stalls(liar, part):
    """Sends a part of the content and no more."""
    def answer(handler, content):
        handler.close_connection = True
        send(handler, content[:part], length=len(content), kind=MANIFEST)
        handler.wfile.flush()
        liar.over.wait(120)
    return answer


def huge(megabytes, said):
    """A document of very many bytes, with its length or in chunks without end."""
    def answer(handler, content):
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("Content-Type", MANIFEST)
        handler.send_header(*(("Content-Length", str(megabytes << 20)) if said else ("Transfer-Encoding", "chunked")))
        handler.end_headers()
        block = b" " * (1 << 20)
        for _ in range(megabytes):
            handler.wfile.write(block if said else b"100000\r\n" + block + b"\r\n")
    return answer


def crawls(liar, pause):
    """A byte at a time."""
    def answer(handler, content):
        handler.close_connection = True
        send(handler, b"", length=len(content), kind=MANIFEST)
        for at in range(len(content)):
            handler.wfile.write(content[at:at + 1])
            handler.wfile.flush()
            if liar.over.wait(pause):
                return
    return answer


def elsewhere(handler, content):
    """Leads back to itself."""
    handler.send_response(307)
    handler.send_header("Location", f"http://{handler.headers['Host']}{handler.path}")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def noise(size):
    """A layer that does not become smaller."""
    return archive([("noise", tarfile.REGTYPE, {"content": os.urandom(size)})])


def zeros(size):
    """A layer that becomes very small."""
    return archive([("zeros", tarfile.REGTYPE, {"content": b"\0" * size})])
