"""A Docker engine of a drill's own: its containerd, its folders, its socket; containers outlive it. `end` takes all of it away."""

import os
import shutil
import signal
import subprocess

from common import until


class Engine:
    """An engine below a folder. `network` is where its bridge has its address."""

    def __init__(self, folder, network="172.30.9.1/24"):
        self.folder, self.network, self.socket, self.process = folder, network, f"{folder}/docker.sock", None
        with open(f"{folder}/containerd.toml", "w", encoding="utf-8") as file:
            file.write(f"""version = 2
root = "{folder}/c-root"
state = "{folder}/c-state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{folder}/containerd.sock"
""")
        with open(f"{folder}/none.json", "w", encoding="utf-8") as file:
            file.write("{}")

    def spawn(self, words):
        """Starts a daemon."""
        with open(f"{self.folder}/log", "ab") as log:
            return subprocess.Popen(words, stdout=log, stderr=log)

    def containerd(self):
        """Starts what the engine keeps containers with; it outlives the engine."""
        self.spawn(["containerd", "--config", f"{self.folder}/containerd.toml"])
        until("containerd", lambda: os.path.exists(f"{self.folder}/containerd.sock"), 30)

    def start(self):
        """Starts the engine; gives its process."""
        folder = self.folder
        self.process = self.spawn(
            ["dockerd", "-H", f"unix://{self.socket}", "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--live-restore",
             "--pidfile", f"{folder}/pid", "--iptables=false", "--ip6tables=false", "--config-file", f"{folder}/none.json", "--bip", self.network,
             "--containerd", f"{folder}/containerd.sock"])
        until("the engine", lambda: os.path.exists(self.socket) and self.docker("version"), 30)
        return self.process

    def kill(self):
        """Ends the engine as a crash does."""
        self.process.kill()
        self.process.wait()

    def docker(self, *words):
        """The engine's own command line."""
        return subprocess.run(["docker", "-H", f"unix://{self.socket}", *words], capture_output=True, text=True, check=True, timeout=20).stdout

    def end(self):
        """Takes containers, daemons and mounts away."""
        try:
            for container in self.docker("ps", "-aq").split():
                self.docker("rm", "-f", container)
        except (OSError, subprocess.SubprocessError):
            pass
        for line in subprocess.run(["pgrep", "-f", f"{self.folder}/"], capture_output=True, text=True, check=False).stdout.split():
            if int(line) != os.getpid():
                os.kill(int(line), signal.SIGTERM)
        subprocess.run(f"sleep 1; grep -o '{self.folder}/[^ ]*' /proc/mounts | sort -r | xargs -r umount -l", shell=True, check=False)


def trust(host, authority):
    """Has engines of this machine trust a registry's authority: they read it here only. Gives the folder, which is to be removed."""
    folder = f"/etc/docker/certs.d/{host}"
    os.makedirs(folder)
    shutil.copy(authority, f"{folder}/ca.crt")
    return folder
