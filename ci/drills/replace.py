"""A task's process is killed: a replacement is healthy, in DNS and behind the virtual address within 3 s, and of a client that asks the
virtual address without pause no request fails later than 500 ms after the kill."""

import os
import signal
import sys
import time

from common import Asker, Drill, Instance, install_hello, ok, task_pids, tasks, until

drill, instance = Drill("replace"), Instance(sys.argv[1])
instance.up()
vip = install_hello(instance, drill)
asker = Asker(lambda: ok(vip, 80))
asker.start()
time.sleep(1)
drill.promise("the virtual address answers before", not asker.failures, f"{asker.asked} requests")

before = tasks(instance)
victim, pid = sorted(task_pids(instance).items())[0]
killed = time.monotonic()
os.kill(pid, signal.SIGKILL)


def replaced():
    now = tasks(instance)
    fresh = set(now) - set(before)
    return fresh if victim not in now and any(
        check.get("alive") for one in fresh for check in now[one].get("healthCheckResults", [])
    ) else None


fresh, _ = until("a healthy replacement", replaced, 10)
took = time.monotonic() - killed
drill.promise("a replacement is healthy within 3 s", fresh and took <= 3, f"{took:.2f} s")
answered = set()
both = lambda: (answered.add(ok(vip, 80).split()[-1]), any(one in answered for one in fresh or ()))[1]
until("the replacement behind the virtual address", both, 10)
took = time.monotonic() - killed
drill.promise("it is behind the virtual address within 3 s", took <= 3, f"{took:.2f} s")
until("two addresses in DNS", lambda: instance.resolve("hello.marathon.mesos"), 5)
took = time.monotonic() - killed
drill.promise("it is in DNS within 3 s", took <= 3, f"{took:.2f} s")
time.sleep(1)
asker.stop()
late = [(at - killed, why) for at, why in asker.failures if at - killed > 0.5]
last = max((at - killed for at, _ in asker.failures), default=0)
drill.promise(
    "no request fails later than 500 ms after the kill", not late,
    f"{asker.asked} requests, {len(asker.failures)} failed, the last {last * 1000:.0f} ms after {late[:2] or ''}",
)
drill.end()
