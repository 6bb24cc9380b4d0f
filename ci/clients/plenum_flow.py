"""The project's own command line inside tasks, as a person and a script use it: commands, terminals, copies, files, figures.

usage: plenum_flow.py PLENUM INSTANCE
"""

import fcntl
import hashlib
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time

from flow import Flow, equal, until

PLENUM, INSTANCE = os.path.abspath(sys.argv[1]), sys.argv[2]
HOME = tempfile.mkdtemp(prefix="plenum-flow-")
APP = "flow-inside"
flow = Flow("plenum")


def command(*arguments):
    """Options come first: what follows a command inside a task belongs to it."""
    return [PLENUM, *arguments[:2], "--instance", INSTANCE, *arguments[2:]]


def plenum(*arguments, given=None, code=0):
    source = {"stdin": subprocess.DEVNULL} if given is None else {"input": given}
    done = subprocess.run(command(*arguments), **source, capture_output=True, timeout=120, check=False, cwd=HOME)
    equal(done.returncode, code, f"exit code of {' '.join(arguments)}: {done.stdout[-500:]!r} {done.stderr[-500:]!r}")
    return done


def out(*arguments, **more):
    return plenum(*arguments, **more).stdout.decode()


def deploy(name, script, **more):
    path = os.path.join(HOME, f"{name}.json")
    with open(path, "w", encoding="ascii") as file:
        json.dump({"id": f"/{name}", "cmd": script, "cpus": 0.5, "mem": 128, **more}, file)
    plenum("app", "deploy", path)


def app_runs():
    deploy(APP, "echo hello; echo oops >&2; exec sleep 3600")


def codes():
    equal(out("task", "exec", APP, "--", "echo", "a b"), "a b\n", "output")
    filtered = "NoNewPrivs:\t1\nSeccomp:\t2\n"
    for process in ["self", "2"]:
        equal(out("task", "exec", APP, "grep", "-E", "^(NoNewPrivs|Seccomp):", f"/proc/{process}/status"), filtered, "isolation by default")
    done = plenum("task", "exec", APP, "sh", "-c", "echo out; echo err >&2; exit 3", code=3)
    equal((done.stdout, done.stderr), (b"out\n", b"err\n"), "both outputs")
    plenum("task", "exec", APP, "/no/such/program", code=127)
    plenum("task", "exec", APP, "sh", "-c", "kill -9 $$", code=137)
    equal(out("task", "exec", APP, "cat"), "", "without -i there is nothing to read")


def pipes():
    bulk = os.urandom(1 << 20) * 32
    back = plenum("task", "exec", "-i", APP, "cat", given=bulk).stdout
    equal(hashlib.sha256(back).digest(), hashlib.sha256(bulk).digest(), f"{len(back)} bytes came back")
    equal(plenum("task", "exec", "-i", APP, "head", "-c", "5", given=bulk).stdout, bulk[:5], "a command that reads no further")


class Terminal:
    """A shell in the task, or the task itself, on a terminal of ours."""

    def __init__(self, *arguments, first=b"#"):
        self.ours, theirs = pty.openpty()
        self.size(24, 80)
        self.before = termios.tcgetattr(theirs)
        self.theirs = theirs
        lead = lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        self.client = subprocess.Popen(
            command(*arguments or ("task", "exec", "-it", APP, "sh")), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=lead
        )
        self.seen = b""
        self.until(first)
        assert termios.tcgetattr(theirs) != self.before, "the terminal was not lent"

    def size(self, rows, columns):
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys):
        os.write(self.ours, keys)

    def until(self, wanted):
        end = time.monotonic() + 20
        while wanted not in self.seen:
            assert time.monotonic() < end, f"{wanted!r} is not in {self.seen!r}"
            if select.select([self.ours], [], [], 0.1)[0]:
                self.seen += os.read(self.ours, 4096)

    def ends(self, code):
        equal(self.client.wait(20), code, f"exit code after {self.seen!r}")
        equal(termios.tcgetattr(self.theirs), self.before, "the terminal as it was")
        os.close(self.ours)
        os.close(self.theirs)


def terminal():
    shell = Terminal()
    shell.type(b"stty size\n")
    shell.until(b"24 80")
    shell.size(40, 132)
    shell.client.send_signal(signal.SIGWINCH)
    shell.type(b"sleep 0.3; stty size\n")
    shell.until(b"40 132")
    shell.type(b"sleep 600\n")
    time.sleep(0.3)
    shell.type(b"\x03exit 7\n")
    shell.ends(7)


def terminal_left():
    shell = Terminal()
    shell.type(b"\x10\x11")
    shell.ends(0)
    shell = Terminal()
    shell.client.terminate()
    shell.ends(143)


def dies_with_its_client():
    with subprocess.Popen(command("task", "exec", APP, "sh", "-c", "echo here; exec sleep 4242"), stdout=subprocess.PIPE) as client:
        equal(client.stdout.readline(), b"here\n", "output")
        client.kill()
    until("the command is gone", lambda: b"4242" not in plenum("task", "exec", APP, "sh", "-c", "cat /proc/[0-9]*/cmdline || true").stdout)


def copies():
    here = lambda name: os.path.join(HOME, name)
    os.makedirs(here("folder/below"))
    for name in ["folder/one", "folder/below/two"]:
        with open(here(name), "wb") as file:
            file.write(os.urandom(100_000))
    plenum("task", "cp", "folder/one", f"{APP}:")
    plenum("task", "cp", "folder", f"{APP}:sent")
    plenum("task", "cp", f"{APP}:one", "back")
    plenum("task", "cp", f"{APP}:sent", "tree")
    place = out("task", "exec", APP, "pwd").strip()
    plenum("task", "cp", f"{APP}:{place}/sent", "other")
    for one, other in [("folder/one", "back"), ("folder/below/two", "tree/below/two"), ("folder/one", "other/one")]:
        with open(here(one), "rb") as a, open(here(other), "rb") as b:
            equal(a.read() == b.read(), True, f"{one} and {other} are the same")
    equal(out("task", "cp", f"{APP}:/etc/hostname", "-"), out("task", "exec", APP, "cat", "/etc/hostname"), "a file of the container")
    plenum("task", "cp", f"{APP}:nothing", "none", code=1)
    assert not os.path.exists(here("none")), "half a file was left"


def looks():
    names = [one["path"].rsplit("/", 1)[1] for one in json.loads(out("task", "files", APP, "-o", "json"))]
    assert {"stdout", "stderr", "sent"} <= set(names), names
    equal(out("task", "logs", APP), "hello\n", "log")
    equal(out("task", "logs", APP, "--stderr"), "oops\n", "log of errors")
    used = json.loads(out("task", "stats", APP, "-o", "json"))
    equal([one["statistics"]["mem_limit_bytes"] for one in used], [128 << 20], "figures")
    assert used[0]["cpus"] is not None, used


def attached():
    """A task's own terminal: typed at, left, attached to again, ended by control-D; one without a terminal is only looked at."""
    talker = f"{APP}-talker"
    deploy(talker, "while true; do echo tick; sleep 0.2; done & while read word; do echo got $word; stty size; done; kill %1; exit 5", tty=True)
    mine = Terminal("task", "attach", talker, first=b"tick")
    mine.size(40, 132)
    mine.client.send_signal(signal.SIGWINCH)
    mine.type(b"one\n")
    mine.until(b"got one")
    mine.type(b"two\n")
    mine.until(b"40 132")
    mine.type(b"\x10\x11")
    mine.ends(0)
    mine = Terminal("task", "attach", talker, first=b"tick")
    mine.type(b"three\n")
    mine.until(b"got three")
    mine.type(b"\x04")
    mine.ends(5)
    plenum("app", "remove", f"/{talker}", "--yes")
    client = subprocess.Popen(command("task", "attach", APP), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said = client.stderr.readline()
    assert b"without a terminal" in said and b"task exec -it" in said, said
    client.terminate()
    equal(client.wait(20), 143, "exit code of one who only looked")


try:
    flow.step("an app; its task runs", app_runs)
    flow.step("task exec: outputs and exit codes", codes)
    flow.step("task exec -i: 32 MiB there and back", pipes)
    flow.step("task exec -it: sizes, keys, exit code", terminal)
    flow.step("task exec -it: the terminal is put back when it is left or ended", terminal_left)
    flow.step("task exec: the command dies with its client", dies_with_its_client)
    flow.step("task cp: files and folders both ways", copies)
    flow.step("task files, logs, stats", looks)
    flow.step("task attach: a task's own terminal", attached)
    flow.step("the app is removed", lambda: plenum("app", "remove", f"/{APP}", "--yes"))
finally:
    shutil.rmtree(HOME, ignore_errors=True)
flow.end()
