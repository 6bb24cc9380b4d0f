"""A registry of Debian's over TLS with a password, and images put into it: by hand, so that no engine is needed."""

import atexit
import base64
import gzip
import hashlib
import http.client
import io
import json
import os
import platform
import socket
import ssl
import subprocess
import tarfile
import time
import urllib.parse

# `pass word`, as the registry's file of passwords has it.
PASSWORDS = "me:$2b$05$17NyB7x0uMHro5HgSv4Pluc9DBAxUf57HzG9mVOVc/97LTP8mjKuC\n"
LOGIN = base64.b64encode(b"me:pass word").decode()
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def layer(entries):
    """A layer: name to content (bytes: a file; str: a link; None: a folder), or (content, mode, uid). Gives plain and packed bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, given in entries.items():
            content, mode, uid = given if isinstance(given, tuple) else (given, 0o755, 0)
            info = tarfile.TarInfo(name)
            info.mode, info.uid, info.gid = mode, uid, uid
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    plain = out.getvalue()
    return plain, gzip.compress(plain, 1)


def busybox():
    """A layer with a shell and the usual tools."""
    with open("/bin/busybox", "rb") as file:
        program = file.read()
    tools = "sh cat echo httpd id ls nc sleep stat touch wc wget dd mount rm mkdir hostname kill true false env head tail nslookup grep setsid mknod".split()
    entries = {"bin": None, "bin/busybox": program, "etc": None, "tmp": (None, 0o1777, 0), "proc": None, "sys": None, "dev": None}
    entries.update({f"bin/{tool}": "busybox" for tool in tools})
    entries["etc/passwd"] = (b"root:x:0:0::/root:/bin/sh\nweb:x:1234:1234::/srv:/bin/sh\n", 0o644, 0)
    entries["etc/group"] = (b"root:x:0:\nweb:x:1234:\n", 0o644, 0)
    return layer(entries)


class Registry:
    """The registry; `stop` ends it."""

    def __init__(self, folder, port=5443):
        self.folder, self.port, self.host = folder, port, f"127.0.0.1:{port}"
        os.makedirs(folder, exist_ok=True)
        self.ca = f"{folder}/ca.pem"
        key, request, cert = (f"{folder}/{name}.pem" for name in ("key", "request", "cert"))
        run = lambda *words: subprocess.run(["openssl", *words], check=True, capture_output=True)
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        run("req", "-x509", *curve, "-keyout", f"{folder}/ca-key.pem", "-out", self.ca, "-days", "2", "-subj", "/CN=test authority")
        run("req", *curve, "-keyout", key, "-out", request, "-subj", "/CN=registry")
        with open(f"{folder}/names", "w", encoding="utf-8") as file:
            file.write("subjectAltName=IP:127.0.0.1\n")
        run("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", f"{folder}/ca-key.pem", "-CAcreateserial", "-out", cert,
            "-days", "2", "-extfile", f"{folder}/names")
        with open(f"{folder}/passwords", "w", encoding="utf-8") as file:
            file.write(PASSWORDS)
        config = {"version": "0.1", "log": {"level": "error"},
                  "storage": {"filesystem": {"rootdirectory": f"{folder}/data"}, "delete": {"enabled": True}},
                  "http": {"addr": self.host, "tls": {"certificate": cert, "key": key}},
                  "auth": {"htpasswd": {"realm": "test", "path": f"{folder}/passwords"}}}
        with open(f"{folder}/config.yml", "w", encoding="utf-8") as file:
            json.dump(config, file)
        with open(f"{folder}/log", "ab") as log:
            self.process = subprocess.Popen(["docker-registry", "serve", f"{folder}/config.yml"], stdout=log, stderr=log)
        atexit.register(self.stop)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("the registry does not start")

    def stop(self):
        """Ends it."""
        self.process.kill()
        self.process.wait()

    def call(self, method, path, body=b"", kind="application/octet-stream"):
        """One request; gives status and headers."""
        context = ssl.create_default_context(cafile=self.ca)
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=context)
        try:
            connection.request(method, path, body, {"Authorization": f"Basic {LOGIN}", "Content-Type": kind})
            answer = connection.getresponse()
            answer.read()
            return answer.status, dict(answer.getheaders())
        finally:
            connection.close()

    def blob(self, name, content):
        """Puts a blob; gives its digest."""
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        status, headers = self.call("POST", f"/v2/{name}/blobs/uploads/")
        if status != 202:
            raise RuntimeError(f"upload of {name}: {status}")
        place = urllib.parse.urlsplit(headers["Location"])
        status, _ = self.call("PUT", f"{place.path}?{place.query}&digest={urllib.parse.quote(digest)}", content)
        if status != 201:
            raise RuntimeError(f"blob of {name}: {status}")
        return digest

    def push(self, name, tag, layers, config):
        """Puts an image of layers (plain, packed); gives the digest of its manifest."""
        digests = ["sha256:" + hashlib.sha256(plain).hexdigest() for plain, _ in layers]
        document = json.dumps({"os": "linux", "architecture": ARCHITECTURE, "config": config,
                               "rootfs": {"type": "layers", "diff_ids": digests}}).encode()
        packed = [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": self.blob(name, packed), "size": len(packed)}
                  for _, packed in layers]
        manifest = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": packed,
                               "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                                          "digest": self.blob(name, document), "size": len(document)}}).encode()
        status, headers = self.call("PUT", f"/v2/{name}/manifests/{tag}", manifest, "application/vnd.oci.image.manifest.v1+json")
        if status != 201:
            raise RuntimeError(f"manifest of {name}: {status}")
        return headers["Docker-Content-Digest"]
