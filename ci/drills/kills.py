"""Each component is killed in turn while clients ask the virtual address, the name and the gateway; then the supervisor. Tasks keep their
processes, no lookup and no request to the virtual address fails, the gateway refuses nobody, all is back within 5 s, intents stand."""

import os
import signal
import sys
import time

from common import Asker, Drill, Instance, install_hello, lookup, ok, request, task_pids, until

drill, instance = Drill("kills"), Instance(sys.argv[1])
instance.up()
vip = install_hello(instance, drill)
pids = task_pids(instance)
drill.promise("two tasks run", len(pids) == 2, pids)
dns = instance.node.rsplit(".", 1)[0] + ".53"


def gateway():
    # A request in flight may be cut; what must not happen is a refused connection.
    try:
        request(instance.node, 80, "GET", "/service/hello/", headers={"Authorization": f"token={instance.token}"}, timeout=10)
    except ConnectionRefusedError:
        raise
    except OSError:
        pass
    except Exception:
        pass


def ready():
    roles = instance.status()["roles"]
    return all(role["condition"] == "running" for role in roles)


def works():
    status, answer = instance.api("GET", "/service/marathon/v2/apps/hello")
    return status == 200 and answer["app"]["tasksRunning"] == 2 and ok(vip, 80)


def watched(what, act, back):
    askers = {"the virtual address": Asker(lambda: ok(vip, 80)), "the name": Asker(lambda: lookup(dns, "hello.marathon.mesos")), "the gateway": Asker(gateway)}
    for asker in askers.values():
        asker.start()
    time.sleep(0.3)
    act()
    took = until(f"all is back after {what}", back, 15)[1]
    time.sleep(0.7)
    for name, asker in askers.items():
        asker.stop()
        failures = [why for _, why in asker.failures]
        drill.promise(f"{what}: {name} answers throughout", not failures, f"{asker.asked} asked, {len(failures)} failed {failures[:1] or ''}")
    drill.promise(f"{what}: everything is back within 5 s", took <= 5, f"{took:.2f} s")
    drill.promise(f"{what}: the tasks keep their processes", task_pids(instance) == pids)


for role in ["master", "agent", "services", "discovery", "balancer", "catalog", "gateway", "identity"]:
    pid = instance.pids()[role]
    changed = lambda: instance.pids().get(role) not in (None, pid) and ready() and works()
    watched(f"{role} killed", lambda: os.kill(pid, signal.SIGKILL), changed)

before = instance.pids()
watched("supervisor killed", lambda: os.kill(instance.status()["pid"], signal.SIGKILL), works)
instance.up()
drill.promise("a new supervisor adopts the components", instance.pids() == before, instance.pids())
apps = [app["id"] for app in instance.api("GET", "/service/marathon/v2/apps")[1]["apps"]]
drill.promise("all intents stand", apps == ["/hello"], apps)
drill.end()
