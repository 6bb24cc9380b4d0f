"""A fleet of Linux hosts on this machine: systemd containers or virtual machines behind one bridge in a network namespace. They live as long as
the program that made them; leftovers of one that was killed go at the next start under the same name."""

import atexit
import base64
import ctypes
import http.client
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

from image import CACHE, image, run

NET = "10.77.0"
USERS = [("root", "root"), ("home/ops", "ops"), ("home/careful", "careful"), ("home/nobody-special", "nobody-special")]


def groups():
    """Where control groups are mounted: every controller of version 1, and version 2."""
    with open("/proc/mounts", encoding="utf-8") as file:
        return sorted({line.split()[1] for line in file if line.split()[2] in ("cgroup", "cgroup2")})


def wait(what, seconds, probe, pause=0.1):
    """Waits until `probe` gives something true, and gives that; raises after `seconds`."""
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            found = probe()
            if found:
                return found
        except (OSError, RuntimeError, http.client.HTTPException, subprocess.SubprocessError, ValueError, KeyError) as error:
            last = error
        time.sleep(pause)
    raise TimeoutError(f"{what}: not within {seconds} s" + (f" ({last})" if last else ""))


class Host:
    """One machine of a fleet."""

    def __init__(self, fleet, number, memory=None, disk=None):
        self.fleet, self.number, self.memory, self.disk = fleet, number, memory, disk
        self.name, self.address = f"h{number}", f"{NET}.{10 + number}"
        self.folder = os.path.join(fleet.folder, self.name)
        self.machine = f"{fleet.tag}{number}"  # the bridge's port is vb-<machine>: 15 letters at most
        self.port = f"vb-{self.machine}"
        self.process = None
        self.time = None  # a virtual machine's clock at its next start; None: the right time

    def __repr__(self):
        return self.name

    # Files that make this host itself: name, address, keys.

    def seed(self):
        """The files by path, their modes, and their text."""
        keys = run("cat", self.fleet.key + ".pub")
        host_key = os.path.join(self.folder, "host_key")
        if not os.path.exists(host_key):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", host_key)
        table = "127.0.0.1 localhost\n" + "".join(f"{NET}.{10 + i} h{i}\n" for i in range(1, 33))
        network = f"[Match]\nName=eth0 host0\n[Network]\nAddress={self.address}/24\nGateway={NET}.1\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
        files = {
            "etc/hostname": (0o644, self.name + "\n"),
            "etc/hosts": (0o644, table),
            "etc/machine-id": (0o444, os.urandom(16).hex() + "\n"),
            "etc/systemd/network/10-fleet.network": (0o644, network),
            "etc/ssh/ssh_host_ed25519_key": (0o600, run("cat", host_key)),
            "etc/ssh/ssh_host_ed25519_key.pub": (0o644, run("cat", host_key + ".pub")),
        }
        for home, _ in USERS:
            files[f"{home}/.ssh/authorized_keys"] = (0o600, keys)
        return files

    def make(self):
        """Lays the host down on disk."""
        os.makedirs(self.folder, exist_ok=True)
        base = self.fleet.base
        upper = os.path.join(self.folder, "upper")
        for path, (mode, text) in self.seed().items():
            path = os.path.join(upper, path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(path, mode)
        for home, user in USERS:
            number = 0 if user == "root" else self.fleet.uids[user]
            for at, mode in [(home, 0o700), (home + "/.ssh", 0o700)]:
                os.chmod(os.path.join(upper, at), mode)
            for folder, _, names in os.walk(os.path.join(upper, home)):
                for at in [folder, *[os.path.join(folder, name) for name in names]]:
                    os.chown(at, number, number)
        if self.fleet.kind == "vm":
            run("tar", "-C", upper, "-cf", os.path.join(self.folder, "seed.tar"), ".")
            disk = os.path.join(base, "disk.raw")
            run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk, os.path.join(self.folder, "disk.qcow2"))
        else:
            os.makedirs(os.path.join(self.folder, "work"))
            os.makedirs(os.path.join(self.folder, "root"))
            run("cp", "-a", os.path.join(base, "root/var"), os.path.join(self.folder, "var"))
            if self.disk:
                # A disk of its own for the state folder: one that can be filled without filling this machine's.
                os.makedirs(os.path.join(self.folder, "state"))
                image = os.path.join(self.folder, "state.img")
                run("truncate", "-s", f"{self.disk}M", image)
                run("mkfs.ext4", "-q", "-m", "0", image)
                run("mount", "-o", "loop", image, os.path.join(self.folder, "state"))
        with open(self.fleet.known_hosts, "a", encoding="utf-8") as file:
            file.write(f"{self.address} {' '.join(run('cat', os.path.join(self.folder, 'host_key.pub')).split()[:2])}\n")

    # Power.

    def group_folders(self):
        return [os.path.join(at, self.fleet.group, self.name) for at in groups()]

    def enter(self):
        """Runs in the child before the host's first program: its own control group in every hierarchy, so that its view begins there."""
        os.setsid()
        for folder in self.group_folders():
            os.makedirs(folder, exist_ok=True)
            for level in [os.path.dirname(folder), folder]:
                for name in ["cpuset.cpus", "cpuset.mems"]:
                    above = os.path.join(os.path.dirname(level), name)
                    if os.path.exists(above) and os.path.exists(os.path.join(level, name)):
                        with open(above, encoding="utf-8") as source, open(os.path.join(level, name), "w", encoding="utf-8") as to:
                            to.write(source.read())
            if self.memory and self.fleet.kind == "container":
                for name in ["memory.limit_in_bytes", "memory.max"]:
                    if os.path.exists(os.path.join(folder, name)):
                        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                            file.write(str(self.memory << 20))
            with open(os.path.join(folder, "cgroup.procs"), "w", encoding="utf-8") as file:
                file.write(str(os.getpid()))

    def power_on(self):
        """Starts it; `wait_ssh` says when it answers."""
        if self.process and self.process.poll() is None:
            return
        if self.fleet.kind == "container":
            # The kernel takes the link of a killed host away in its own time; a new one of that name would be refused.
            subprocess.run(["ip", "-n", self.fleet.space, "link", "delete", self.port], capture_output=True, check=False)
        command = self.vm_command() if self.fleet.kind == "vm" else self.container_command()
        log = open(os.path.join(self.folder, "console.log"), "ab")
        environment = dict(os.environ, SYSTEMD_NSPAWN_API_VFS_WRITABLE="network", SYSTEMD_NSPAWN_LOCK="0")
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=self.enter, env=environment, cwd="/"
        )
        log.close()

    def container_command(self):
        at = self.folder
        overlay = f"lowerdir={self.fleet.base}/root,upperdir={at}/upper,workdir={at}/work"
        script = f"mount -t overlay overlay -o {shlex.quote(overlay)} {at}/root && exec \"$@\""
        binds = [f"--bind={at}/var:/var"] + ([f"--bind={at}/state:/var/lib/plenum"] if self.disk else [])
        binds += [f"--bind={device}" for device in ["/dev/net/tun", "/dev/fuse"] if os.path.exists(device)]
        return [
            "nsenter", f"--net=/run/netns/{self.fleet.space}", "unshare", "--mount", "--propagation", "private", "bash", "-c", script, "host",
            "systemd-nspawn", "--quiet", "--keep-unit", "--register=no", f"--machine={self.machine}", f"--directory={at}/root", *binds,
            "--network-bridge=fleet", "--capability=all", "--system-call-filter=@known", "--link-journal=no", "--resolv-conf=off",
            "--timezone=off", "--console=read-only", "--kill-signal=SIGRTMIN+4", "/sbin/fleet-init",
        ]  # fmt: skip

    def vm_command(self):
        at, base, space = self.folder, self.fleet.base, self.fleet.space
        if subprocess.run(["ip", "-n", space, "link", "show", self.port], capture_output=True, check=False).returncode:
            run("ip", "-n", space, "tuntap", "add", "dev", self.port, "mode", "tap")
            run("ip", "-n", space, "link", "set", self.port, "master", "fleet", "up")
        # Emulated unless told: a machine that is virtual itself may have a /dev/kvm that boots nothing.
        fast = os.environ.get("FLEET_KVM") == "1"
        processor = "host,-arch-capabilities" if fast else "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes,+pclmulqdq"
        return [
            "nsenter", f"--net=/run/netns/{space}", "qemu-system-x86_64", "-name", self.machine, "-nodefaults", "-no-user-config", "-display", "none",
            *(["-rtc", f"base={self.time:%Y-%m-%dT%H:%M:%S}"] if self.time else []),
            "-machine", "pc", "-accel", "kvm" if fast else "tcg,thread=multi", "-cpu", processor, "-smp", "1", "-m", str(self.memory or 1024),
            "-kernel", f"{base}/vmlinuz", "-initrd", f"{base}/initrd",
            "-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0 mitigations=off panic=-1 init=/sbin/fleet-init",
            # What the guest has synced is with this machine's kernel and outlives the process; what it has not synced is lost with it.
            "-drive", f"file={at}/disk.qcow2,format=qcow2,if=virtio,cache=unsafe,discard=unmap",
            "-drive", f"file={at}/seed.tar,format=raw,if=virtio,readonly=on", "-device", "virtio-rng-pci",
            "-netdev", f"tap,id=net,ifname={self.port},script=no,downscript=no",
            "-device", f"virtio-net-pci,netdev=net,romfile=,mac=52:54:00:77:00:{self.number:02x}",
            "-chardev", f"file,id=log,path={at}/console.log,append=on", "-serial", "chardev:log", "-no-reboot",
        ]  # fmt: skip

    def pids(self):
        """Every process of the host."""
        found = set()
        for folder in self.group_folders():
            if "unified" not in folder and "systemd" not in folder and len(groups()) > 1:
                continue
            for at, _, names in os.walk(folder):
                if "cgroup.procs" in names:
                    try:
                        with open(os.path.join(at, "cgroup.procs"), encoding="utf-8") as file:
                            found |= {int(line) for line in file}
                    except OSError:
                        pass
        return found

    def kill(self):
        """Pulls the plug: no process gets to run again."""
        end = time.monotonic() + 30
        while pids := self.pids() | ({self.process.pid} if self.process and self.process.poll() is None else set()):
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if self.process:
                self.process.poll()
            if time.monotonic() > end:
                raise TimeoutError(f"processes of {self.name} do not end: {sorted(pids)}")
            time.sleep(0.02)
        if self.process:
            self.process.wait(10)
        for folder in self.group_folders():
            subprocess.run(["find", folder, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"], capture_output=True, check=False)

    def freeze(self, frozen):
        """Stops every process of the host, or lets them go on: a machine that was suspended."""
        for _ in range(3):
            for pid in self.pids():
                try:
                    os.kill(pid, signal.SIGSTOP if frozen else signal.SIGCONT)
                except ProcessLookupError:
                    pass

    # Talking.

    def ssh_command(self, command, user="root"):
        options = ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={self.fleet.known_hosts}"]
        options += ["-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=5", "-o", "LogLevel=ERROR", "-i", self.fleet.key]
        return self.fleet.inside("ssh", *options, f"{user}@{self.address}", command)

    def ssh(self, command, user="root", timeout=60, check=True, stdin=None):
        """Runs a shell command on the host; gives its output."""
        done = subprocess.run(
            self.ssh_command(command, user), capture_output=True, text=True, timeout=timeout, check=False, input=stdin or ""
        )
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {command[:200]}: {done.returncode}: {done.stdout[-1000:]}{done.stderr[-2000:]}")
        return done.stdout

    def python(self, text, timeout=60):
        """Runs a Python program on the host."""
        coded = base64.b64encode(text.encode()).decode()
        return self.ssh(f"python3 -c 'import base64;exec(base64.b64decode(\"{coded}\"))'", timeout=timeout)

    def spawn(self, command):
        """Starts a shell command on the host; ends with the harness."""
        process = subprocess.Popen(
            self.ssh_command(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.fleet.children.append(process)
        return process

    def wait_ssh(self, seconds=None):
        seconds = seconds or (400 if self.fleet.kind == "vm" else 90)

        def answers():
            if self.process and self.process.poll() is not None:
                raise SystemExit(f"{self.name} did not start; its console: {run('tail', '-n', '5', self.folder + '/console.log')}")
            return self.ssh("echo up", timeout=20)

        wait(f"ssh of {self.name} (its console: {self.folder}/console.log)", seconds, answers, 0.3)


class Fleet:
    """Hosts h1, h2, ... and what connects them."""

    def __init__(self, name, count, kind="container", memory=None, disks=None, packages=()):
        self.name, self.kind = name, kind
        self.space = self.group = f"plenum-fleet-{name}"
        self.tag = f"p{os.getpid() % 10000:04d}-"
        self.folder = os.path.join(CACHE, "fleets", name)
        self.key, self.known_hosts = os.path.join(self.folder, "key"), os.path.join(self.folder, "known_hosts")
        self.children, self.hosts = [], []
        self.memory, self.disks = memory, disks or {}
        self.clear()
        atexit.register(self.down)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _: sys.exit(128 + number))
        self.base = image(kind, packages)
        os.makedirs(self.folder)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", self.key)
        self.uids = {"ops": 1000, "careful": 1001, "nobody-special": 1002}
        self.network()
        self.add(count)

    def network(self):
        run("ip", "netns", "add", self.space)
        run("ip", "-n", self.space, "link", "set", "lo", "up")
        run("ip", "-n", self.space, "link", "add", "fleet", "type", "bridge")
        run("ip", "-n", self.space, "addr", "add", f"{NET}.1/24", "dev", "fleet")
        run("ip", "-n", self.space, "link", "set", "fleet", "up")
        rules = """table bridge fleet {
          set alone { type ifname; }
          set apart { type ifname . ifname; }
          chain between { type filter hook forward priority 0; iifname @alone drop; oifname @alone drop; iifname . oifname @apart drop; }
          chain to-us { type filter hook input priority 0; iifname @alone drop; }
          chain from-us { type filter hook output priority 0; oifname @alone drop; }
        }"""
        run(*self.inside("nft", "-f", "-"), input=rules)
        # From here on this program, its threads and children are in the fleet's network, as the admin's laptop is.
        with open(f"/run/netns/{self.space}", "rb") as space:
            if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), 0x40000000):
                raise OSError(ctypes.get_errno(), "setns")

    def add(self, count):
        """Adds `count` hosts and waits for them."""
        new = []
        for _ in range(count):
            number = len(self.hosts) + 1
            host = Host(self, number, self.memory, self.disks.get(number))
            host.make()
            self.hosts.append(host)
            new.append(host)
        for host in new:
            host.power_on()
        for host in new:
            host.wait_ssh()
        return new

    def inside(self, *command):
        """A command in the fleet's network, as from the admin's laptop."""
        return ["nsenter", f"--net=/run/netns/{self.space}", *command]

    def cut(self, host, *peers):
        """Drops frames between `host` and everybody, or between it and `peers` only; links stay up."""
        if peers:
            pairs = ", ".join(f'"{a.port}" . "{b.port}"' for peer in peers for a, b in [(host, peer), (peer, host)])
            run(*self.inside("nft", "add", "element", "bridge", "fleet", "apart", "{ " + pairs + " }"))
        else:
            run(*self.inside("nft", "add", "element", "bridge", "fleet", "alone", f'{{ "{host.port}" }}'))

    def heal(self):
        """Everybody reaches everybody again."""
        run(*self.inside("nft", "flush set bridge fleet alone; flush set bridge fleet apart"))

    def clear(self):
        """Removes what is left under this name, of this program or an earlier one."""
        for at in groups():
            base = os.path.join(at, self.group)
            for folder, _, names in os.walk(base):
                if "cgroup.procs" in names:
                    with open(os.path.join(folder, "cgroup.procs"), encoding="utf-8") as file:
                        for line in file:
                            try:
                                os.kill(int(line), signal.SIGKILL)
                            except ProcessLookupError:
                                pass
        time.sleep(0.1)
        for at in groups():
            for _ in range(50):
                base = os.path.join(at, self.group)
                if not os.path.isdir(base):
                    break
                subprocess.run(["find", base, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"], capture_output=True, check=False)
                time.sleep(0.05)
        subprocess.run(["ip", "netns", "delete", self.space], capture_output=True, check=False)
        if os.path.isdir(self.folder):
            for name in os.listdir(self.folder):
                state = os.path.join(self.folder, name, "state")
                if os.path.ismount(state):
                    subprocess.run(["umount", "-l", state], check=False)
            shutil.rmtree(self.folder, ignore_errors=True)

    def keep_logs(self, folder):
        """The journals of all hosts that answer."""
        os.makedirs(folder, exist_ok=True)
        for host in self.hosts:
            try:
                text = host.ssh("journalctl -o short-precise --no-pager", timeout=30)
                with open(os.path.join(folder, host.name + ".log"), "w", encoding="utf-8") as file:
                    file.write(text)
            except (OSError, RuntimeError, subprocess.SubprocessError):
                pass

    def down(self):
        """Stops and deletes everything."""
        if os.environ.get("KEEP_LOGS"):
            self.keep_logs(os.path.join(os.environ["KEEP_LOGS"], self.name))
        for child in self.children:
            if child.poll() is None:
                child.kill()
        for host in self.hosts:
            host.kill()
        if os.environ.get("KEEP_FLEET"):
            return
        self.clear()
