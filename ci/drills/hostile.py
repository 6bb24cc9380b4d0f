"""Malformed and hostile requests at each HTTP port, with credentials and without: the right refusals, no panic, no leak, nobody restarts. The
agents' door gets rubbish, too. `DRILL_SEED` repeats a run; `DRILL_REQUESTS` is the number at each port (200)."""

import json
import os
import random
import re
import socket
import ssl
import sys
import time
from collections import Counter

from common import Asker, Drill, Instance, request, until
from rubbish import OPEN, Rubbish

SEED = int(os.environ.get("DRILL_SEED") or random.SystemRandom().randrange(1 << 32))
COUNT = int(os.environ.get("DRILL_REQUESTS") or 200)
DEADLINE = 10
GROWTH = 8  # MiB that a process may have more after as many requests as it had before
PORTS = {"master": 5050, "agent": 5051, "services": 8080, "catalog": 7070, "identity": 8101, "discovery": 8123, "gateway": 80}

drill, instance = Drill("hostile"), Instance(sys.argv[1])


def opened(port):
    connection = socket.create_connection((instance.node, port), timeout=DEADLINE)
    connection.settimeout(DEADLINE)
    if port == 443:
        return ssl._create_unverified_context().wrap_socket(connection)
    return connection


def exchange(port, case):
    """Sends a case and reads the heads of its answers: their statuses, and the last one's beginning."""
    statuses, text = [], b""
    with opened(port) as connection:
        try:
            connection.sendall(case.data)
            if case.end and port != 443:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused before all was sent: what counts is the answer
        end = time.monotonic() + DEADLINE
        while len(statuses) < case.answers:
            found = re.search(rb"HTTP/1\.[01] (\d{3})", text)
            if found and b"\r\n\r\n" in text[found.start():]:
                statuses.append(int(found.group(1)))
                if len(statuses) < case.answers or statuses[-1] >= 500:
                    rest = text[found.start():]
                    size = re.search(rb"(?i)content-length: *(\d+)", rest.split(b"\r\n\r\n")[0])
                    whole = rest.index(b"\r\n\r\n") + 4 + (int(size.group(1)) if size else 0)
                    while len(rest) < whole and (more := connection.recv(65536)):
                        rest += more
                    if len(statuses) < case.answers:
                        text = rest[whole:]
                continue
            if time.monotonic() > end:
                raise TimeoutError("no whole answer within the deadline")
            try:
                more = connection.recv(65536)
            except (ConnectionError, ssl.SSLError):
                break
            if not more:
                break
            text += more
    return statuses, text


def judge(case, statuses, text, token):
    """What is wrong with the answers, or nothing."""
    if not statuses:
        return None if case.silent or text.startswith(b"\0\0") or case.name.startswith("raw") else "no answer"
    for status in statuses:
        # Not built, or not now and the answer says why: both deliberate.
        deliberate = status == 501 or (status == 503 and len(text.split(b"\r\n\r\n", 1)[-1]) > 10)
        # What the gateway passes on may be refused before it was taken whole; then all it can tell is that the target hung up.
        deliberate = deliberate or (status == 502 and len(case.data) > 300_000 and b'"BROKEN"' in text)
        if status not in case.right and not (status == 505 and "line" in case.name) and not deliberate:
            return f"status {status}"
        if not token and 200 <= status < 300 and not any(word in case.path for word in OPEN) and case.path.split("?")[0].strip("/."):
            return f"status {status} without credentials"
    return None


def attack(name, port, token, seed, slow):
    """All requests at one port; the answers counted, the wrong ones told."""
    rng = random.Random(f"{seed} {name} {bool(token)}")
    rubbish, seen, wrong = Rubbish(rng, name, token), Counter(), []
    for number in range(COUNT):
        case = rubbish.case()
        while case.end and port == 443:
            # TLS has no half-closed connections here: who waits for the rest of a body waits for as long as it may.
            case = rubbish.case()
        began = time.monotonic()
        try:
            statuses, text = exchange(port, case)
            fault = judge(case, statuses, text, token)
            seen.update(statuses or ["closed"])
        except OSError as error:
            fault, text = f"{type(error).__name__}: {error}", b""
            seen["none"] += 1
        took = time.monotonic() - began
        slow.append((took, f"{name}: {case.name}"))
        if fault:
            wrong.append(f"{number} {case.name}: {fault} {text[-160:]!r}")
    return seen, wrong


def door(seed):
    """Rubbish at the agents' door: none of it is answered with anything but the end of the connection."""
    rng, hung = random.Random(f"{seed} door"), 0
    for _ in range(COUNT):
        rubbish = rng.choice([
            rng.randbytes(rng.randrange(1, 3000)), b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00" + rng.randbytes(512), b"\x16\x03\x01\xff\xff" + b"\0" * 70_000,
            b"\xff\xff\xff\xff" * 100, b"\0\0\0\x01\0",
        ])
        with opened(5055) as connection:
            try:
                connection.sendall(rubbish)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
            except TimeoutError:
                hung += 1
            except OSError:
                pass
    return hung


def crawl(port, token):
    """Connections that say little and slowly; others are served meanwhile. Gives them, and how long an ordinary request took."""
    beginnings = [b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\nX-", b"\x16\x03", b"PRI * HT",
                  f"POST /x HTTP/1.1\r\nHost: x\r\nAuthorization: token={token}\r\nContent-Length: 100\r\n\r\n{{".encode()]
    held = []
    for number in range(60):
        connection = socket.create_connection((instance.node, port), timeout=DEADLINE)
        connection.sendall(beginnings[number % len(beginnings)])
        held.append(connection)
    began = time.monotonic()
    status, _ = request(instance.node, port, "GET", "/nothing", timeout=DEADLINE)
    return held, status, time.monotonic() - began


def usage(pids):
    """Resident MiB and open files by component."""
    found = {}
    for role, pid in pids.items():
        with open(f"/proc/{pid}/status", encoding="utf-8") as file:
            kilobytes = int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1))
        found[role] = (kilobytes / 1024, len(os.listdir(f"/proc/{pid}/fd")))
    return found


def call(port, method, path, body=None):
    status, answer = request(instance.node, port, method, path, body, {"Authorization": f"token={instance.token}"}, timeout=30)
    return status, answer


def tidy():
    """Removes what happened to be a right request after all."""
    for app in json.loads(call(8080, "GET", "/v2/apps")[1])["apps"]:
        if app["id"] != "/stays":
            call(8080, "DELETE", f"/v2/apps/{app['id']}?force=true")
    for user in json.loads(call(8101, "GET", "/acs/api/v1/users")[1])["array"]:
        if user["uid"] == "hostile":
            call(8101, "DELETE", f"/acs/api/v1/users/{user['uid']}")


def panics():
    found = []
    for name in sorted(os.listdir(f"{instance.state}/log")):
        with open(f"{instance.state}/log/{name}", encoding="utf-8", errors="replace") as file:
            found += [f"{name}: {line.strip()[:200]}" for line in file if "panic" in line.lower()]
    return found


def stays_runs():
    return json.loads(call(8080, "GET", "/v2/apps/stays")[1])["app"]["tasksRunning"] == 1


print(f"       seed {SEED}", flush=True)
instance.up()
body = {"uid": "admin", "password": instance.password}
instance.token = json.loads(request(instance.node, 8101, "POST", "/acs/api/v1/auth/login", body)[1])["token"]
call(8080, "POST", "/v2/apps", {"id": "/stays", "cmd": "sleep 100000", "cpus": 0.01, "mem": 16})
until("an app runs", stays_runs, 20)
task = json.loads(call(8080, "GET", "/v2/apps/stays/tasks")[1])["tasks"][0]["id"]
pids = instance.pids()
ports = [(name, port) for name, port in PORTS.items() if name in pids] + ([("gateway", 443)] if "gateway" in pids else [])
ordinary = Asker(lambda: call(8080, "GET", "/v2/apps/stays")[0] == 200 or sys.exit("no answer"), pause=0.05)

for turn in ("first", "second"):
    # The first turn is what fills caches and pools; what the second adds is a leak.
    if turn == "second":
        tidy()
        time.sleep(2)
        before = usage(pids)
        ordinary.start()
    slow = []
    for name, port in ports:
        for token in (instance.token, None):
            seen, wrong = attack(name, port, token, f"{SEED} {turn}", slow)
            who = "with credentials" if token else "without"
            told = " ".join(f"{status}:{count}" for status, count in sorted(seen.items(), key=str))
            drill.promise(f"{turn} turn, {name} {port} {who}: every answer is right", not wrong, f"{told} {'; '.join(wrong[:6])}")
    if "master" in pids:
        drill.promise(f"{turn} turn, the agents' door: rubbish ends its connection", door(f"{SEED} {turn}") == 0, f"{COUNT} connections")
    longest = max(slow)
    drill.promise(f"{turn} turn: no request hangs", longest[0] < DEADLINE, f"longest {longest[0]:.2f} s, {longest[1]}")
    for name, port in ports:
        if port != 443:
            held, status, took = crawl(port, instance.token)
            drill.promise(f"{turn} turn, {name} {port}: slow connections keep nobody else waiting", status < 500 and took < 2, f"{status} after {took * 1000:.0f} ms beside {len(held)}")
            for connection in held:
                connection.close()

ordinary.stop()
drill.promise("an ordinary client was served throughout", not ordinary.failures, f"{ordinary.asked} requests, longest {ordinary.longest:.2f} s {ordinary.failures[:2] or ''}")
tidy()
drill.promise("no component ended", instance.pids() == pids, instance.pids())
drill.promise("the task runs on", stays_runs() and json.loads(call(8080, "GET", "/v2/apps/stays/tasks")[1])["tasks"][0]["id"] == task, task)


def settled():
    return all(usage(pids)[role][1] <= before[role][1] + 1 for role in pids)


until("open files as before", settled, 20)
after = usage(pids)
for role in pids:
    (memory, files), (memory_after, files_after) = before[role], after[role]
    good = memory_after <= memory + GROWTH and files_after <= files + 1
    drill.promise(f"{role} leaks neither memory nor files", good, f"{memory:.1f} -> {memory_after:.1f} MiB, {files} -> {files_after} files")
drill.promise("no log tells of a panic", not panics(), panics()[:3] or "")
drill.end()
