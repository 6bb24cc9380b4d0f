"""A volume driver's plugin in the protocol of Docker's: its volumes are file systems in memory."""

import http.server
import json
import os
import socketserver
import subprocess
import threading


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """HTTP on a Unix socket."""

    daemon_threads = True


class Plugin:
    """Listens where agents look for a driver of this name; notes what it is asked."""

    def __init__(self, name, room):
        self.asked, self.room, self.path = [], room, f"/run/docker/plugins/{name}.sock"
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        plugin = self

        class Handler(http.server.BaseHTTPRequestHandler):
            """One question."""

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = json.dumps(plugin.answer(self.path.rsplit(".", 1)[1], body)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def address_string(self):
                return "agent"

            def log_message(self, *_words):
                pass

        self.server = Server(self.path, Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, method, body):
        """Does as it is told."""
        self.asked.append(method)
        at = f"{self.room}/{body['Name']}"
        if method == "Create":
            os.makedirs(at)
        elif not os.path.isdir(at):
            return {"Err": "no such volume"}
        if method == "Mount":
            subprocess.run(["mount", "-t", "tmpfs", "plenum-drill", at], check=True)
            return {"Mountpoint": at, "Err": ""}
        if method == "Unmount":
            done = subprocess.run(["umount", at], capture_output=True, text=True, check=False)
            return {"Err": done.stderr.strip()}
        return {"Volume": {"Name": body["Name"]}, "Err": ""}

    def mounted(self):
        """How many of its volumes are."""
        with open("/proc/self/mounts", encoding="utf-8") as mounts:
            return sum(self.room in line for line in mounts)

    def stop(self):
        """Leaves nothing."""
        self.server.shutdown()
        self.server.server_close()
        os.unlink(self.path)
        subprocess.run(f"grep -o '{self.room}/[^ ]*' /proc/mounts | xargs -r umount -l", shell=True, check=False)
