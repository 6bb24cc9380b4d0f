"""Two of three masters are down: what runs goes on, writes are refused with a clear error; they come back: all as before."""

import time

from cluster import Asker, Cluster, Failed, Show, web
from hosts import Fleet
from install import LOOKUP


def main():
    show = Show("quorum")
    fleet = Fleet("quorum", 5)
    h1, h2, h3, h4, h5 = fleet.hosts
    cluster = Cluster(fleet, {h1: ["master"], h2: ["master"], h3: ["master"], h4: ["agent"], h5: ["agent"]})
    cluster.apply()
    cluster.wait_healthy()
    tasks = cluster.deploy(web("/web", 3))
    before, addresses = {task["id"] for task in tasks}, len({task["host"] for task in tasks})
    cluster.login()
    asker = Asker(h4, "11.0.200.1:80")
    show.say("installed, three instances healthy")
    h1.kill()
    h2.kill()
    time.sleep(10)
    for number in range(3):
        began = time.monotonic()
        try:
            answer = cluster.call(h3, "POST", "/service/marathon/v2/apps", {"id": f"/no{number}", "cmd": "sleep 9", "instances": 0}, timeout=30)
        except OSError as error:
            answer = (0, repr(error))
        took = time.monotonic() - began
        sentence = answer[1].get("message", "") if isinstance(answer[1], dict) else str(answer[1])
        show.promise("a write is refused with 503 and a sentence, soon", answer[0] == 503 and len(sentence) > 20 and took < 15, f"{answer[0]} after {took:.1f} s: {sentence[:160]}")
    for host in (h4, h5, h3):
        code = host.python(LOOKUP.format(name="web.marathon.mesos", server="127.88.0.53")).split()
        show.promise(f"{host}: names are answered", code[0] == "0" and int(code[1]) == addresses, " ".join(code))
    time.sleep(20)
    h1.power_on()
    h2.power_on()
    back = time.monotonic()
    cluster.wait_healthy(120)
    show.say(f"healthy {time.monotonic() - back:.1f} s after the masters' power came back")
    asked, failed = asker.stop()
    show.promise("no request to the virtual address failed meanwhile", not failed and asked > 100, f"{asked} asked; {failed[:3]}")
    after = {task["id"] for task in cluster.wait_app("/web", 3, 60)}
    show.promise("the same tasks run", after == before)
    there = [app["id"] for app in cluster.ask("GET", "/service/marathon/v2/apps")["apps"]]
    show.promise("what was refused is not there", not [app for app in there if app.startswith("/no")], there)
    cluster.ask("POST", "/service/marathon/v2/apps", {"id": "/again", "cmd": "sleep 1000", "instances": 1, "cpus": 0.01, "mem": 16})
    cluster.wait_app("/again", 1, 60, health=False)
    show.promise("writes and launches work again", True)
    show.end()


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        print(error)
        raise SystemExit(1) from None
