"""Apps that leave the number of their instances to the scheduler: one that computes, one that counts requests, one by the clock. They grow, say why, survive the
scheduler's end, and shrink."""

import os
import signal
import sys
import tempfile
import time

from common import PATIENCE, Drill, Instance, until

drill, instance = Drill("scale"), Instance(sys.argv[1])
room = tempfile.TemporaryDirectory(prefix="plenum-drill-")
os.chmod(room.name, 0o755)
MARATHON = "/service/marathon/v2"
BUSY, RATE = f"{room.name}/busy", f"{room.name}/rate"
SMALL = {"cpus": 0.05, "mem": 32}
PACE = {"intervalSeconds": 1, "scaleDown": {"windowSeconds": 4}}
# A third of a processor, while the file is there.
COMPUTES = f"while true; do if [ -e {BUSY} ]; then i=0; while [ $i -lt 4000 ]; do i=$((i+1)); done; sleep 0.02; else sleep 0.3; fi; done"
COUNTS = f"""
import http.server, os, time
class Page(http.server.BaseHTTPRequestHandler):
    count, at = 0.0, time.monotonic()
    def do_GET(self):
        now = time.monotonic()
        Page.count, Page.at = Page.count + float(open({RATE!r}).read()) * (now - Page.at), now
        self.send_response(200); self.end_headers()
        self.wfile.write(b'# TYPE served_total counter\\nserved_total{{code="200"}} %f\\n' % Page.count)
    def log_message(self, *words): pass
http.server.ThreadingHTTPServer(('', int(os.environ['PORT0'])), Page).serve_forever()
"""


def deploy(name, **more):
    status, answer = instance.api("PUT", f"{MARATHON}/apps/{name}", {"id": f"/{name}", **SMALL, **more})
    if status not in (200, 201):
        raise RuntimeError(f"{name}: {status} {answer}")


def shown(name):
    return instance.api("GET", f"{MARATHON}/apps/{name}")[1]["app"]


def becomes(name, count, why, patience=60):
    """Waits until so many run, and says what was found."""
    seen = []

    def there():
        app = shown(name)
        seen.append(app["instances"])
        return app if app["tasksRunning"] == app["instances"] == count and not app["deployments"] else None

    found, took = until(f"{count} of {name}", there, patience)
    said = shown(name).get("autoscaleStatus", {})
    drill.promise(f"{name}: {why}: {count} instances", found, f"{took:.1f} s, {said.get('why')}" if found else f"{said} {seen[-5:]}")
    return found


def grows_and_shrinks(name, word, busy, idle):
    busy()
    becomes(name, 3, "busy")
    text = instance.plenum("app", "why", f"/{name}", "--instance", instance.name)
    drill.promise(f"{name}: the command says why", word in text and "of 1 to 3" in text, text.strip())
    before = instance.pids()["services"]
    os.kill(before, signal.SIGKILL)
    until("another scheduler", lambda: instance.pids()["services"] not in (None, before), 30)
    until("its answers", lambda: instance.api("GET", f"{MARATHON}/info")[0] == 200, 30)
    becomes(name, 3, "after the scheduler's end")
    idle()
    began = time.monotonic()
    becomes(name, 1, "idle")
    took = time.monotonic() - began
    drill.promise(f"{name}: not before it was idle for a while", took >= 3, f"{took:.1f} s")


instance.up()
instance.login()

deploy("computes", cmd=COMPUTES, autoscale={"min": 1, "max": 3, "metrics": [{"type": "cpu", "target": 0.5}], **PACE})
becomes("computes", 1, "at first")
grows_and_shrinks("computes", "cpu is", lambda: open(BUSY, "w", encoding="utf-8").close(), lambda: os.remove(BUSY))
instance.api("DELETE", f"{MARATHON}/apps/computes?force=true")


def rate(number):
    with open(f"{RATE}.new", "w", encoding="utf-8") as file:
        file.write(str(number))
    os.rename(f"{RATE}.new", RATE)


rate(1)
metric = {"type": "requests", "target": 10, "counter": "served_total"}
deploy("counts", args=["python3", "-c", COUNTS], portDefinitions=[{"port": 0}], autoscale={"min": 1, "max": 3, "metrics": [metric], **PACE})
becomes("counts", 1, "at first")
grows_and_shrinks("counts", "requests is", lambda: rate(40), lambda: rate(1))

# What runs was chosen by the scheduler: a description that does not name a number leaves it, and nothing is started anew.
rate(40)
becomes("counts", 3, "busy again")
tasks = lambda: sorted(task["id"] for task in instance.api("GET", f"{MARATHON}/apps/counts/tasks")[1]["tasks"])
before = tasks()
wider = {"min": 1, "max": 3, "metrics": [{**metric, "target": 9}], **PACE}
deploy("counts", args=["python3", "-c", COUNTS], portDefinitions=[{"port": 0}], autoscale=wider)
becomes("counts", 3, "described anew")
drill.promise("counts: other rules start nothing anew", tasks() == before, f"{before} {tasks()}")

start = time.strftime("%H:%M", time.gmtime(time.time() - 120))
evening = [{"start": start, "minutes": 60, "min": 2, "max": 2}]
deploy("clock", cmd="exec sleep 1000", autoscale={"min": 1, "max": 2, "schedules": evening, **PACE})
becomes("clock", 2, "by the clock")
off = [{"start": start, "minutes": 60, "min": 0, "max": 0}]
deploy("clock", cmd="exec sleep 1000", autoscale={"min": 1, "max": 2, "schedules": off, **PACE})
becomes("clock", 0, "off by the clock")
deploy("clock", cmd="exec sleep 1000", autoscale={"min": 1, "max": 2, "schedules": evening, **PACE})
becomes("clock", 2, "on again by the clock")
status, answer = instance.api("PUT", f"{MARATHON}/apps/clock?force=true", {"instances": 0})
becomes("clock", 0, "nothing wanted")
time.sleep(3 * PATIENCE)
drill.promise("clock: what nobody wants is not started", shown("clock")["instances"] == 0, shown("clock")["instances"])
drill.end()
