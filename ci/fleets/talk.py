"""Containers of two hosts that talk with each other by their own addresses, over the network `dcos`."""

import ipaddress
import json

# A page that needs several packets, and an echo of datagrams; on IPv4 and IPv6.
SERVER = (
    "import socket,threading,http.server as h\n"
    "class S(h.BaseHTTPRequestHandler):\n"
    " def log_message(s,*a): pass\n"
    " def do_GET(s):\n"
    "  s.send_response(200); s.end_headers(); s.wfile.write(b'x'*300000)\n"
    "def echo():\n"
    " u=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM); u.bind(('::',8081))\n"
    " while True:\n"
    "  data,who=u.recvfrom(9000); u.sendto(data,who)\n"
    "threading.Thread(target=echo,daemon=True).start()\n"
    "class T(h.ThreadingHTTPServer): address_family=socket.AF_INET6\n"
    "T(('::',8080),S).serve_forever()\n"
)

# Runs in a container: how many bytes come back over HTTP and by datagrams of up to a whole frame.
ASK = (
    "import socket,sys,urllib.request as r\n"
    "host=sys.argv[1]; name='['+host+']' if ':' in host else host\n"
    "got=len(r.urlopen('http://'+name+':8080/',timeout=10).read())\n"
    "u=socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET,socket.SOCK_DGRAM); u.settimeout(5)\n"
    "for size in (1,1300,4000):\n"
    " u.sendto(b'y'*size,(host,8081)); got+=len(u.recv(9000))\n"
    "print(got)\n"
)
ALL = 300000 + 1 + 1300 + 4000


def ask(cluster, task, address):
    """What the container of `task` gets from the one at `address`."""
    return cluster.plenum("task", "exec", task["id"], "--", "python3", "-c", ASK, address, timeout=60).strip()


def both_ways(show, cluster, tasks, when):
    """Each of two containers asks the other, at all its addresses."""
    for one, other in (tasks, tasks[::-1]):
        for address in (entry["ipAddress"] for entry in other["ipAddresses"]):
            got = ask(cluster, one, address)
            show.promise(f"{one['host']} reaches {address} on {other['host']} {when}", got == str(ALL), got)


def talk(show, cluster, hosts):
    """All but what the caller does next; gives the tasks, which run on. `hosts` are two that run tasks."""
    app = {
        "id": "/talk", "cmd": f'exec python3 -c "{SERVER}"', "instances": 2, "cpus": 0.05, "mem": 32,
        "networks": [{"mode": "container", "name": "dcos"}],
        "container": {"type": "MESOS", "portMappings": [{"containerPort": 8080, "name": "http"}]},
        "constraints": [["hostname", "UNIQUE"], ["hostname", "LIKE", "|".join(h.address.replace(".", "\\.") for h in hosts)]],
        "healthChecks": [
            {"protocol": "MESOS_HTTP", "path": "/", "portIndex": 0, "gracePeriodSeconds": 10, "intervalSeconds": 1, "timeoutSeconds": 5, "delaySeconds": 0}
        ],
    }  # fmt: skip
    tasks = cluster.deploy(app)
    own = [[ipaddress.ip_address(entry["ipAddress"]) for entry in task["ipAddresses"]] for task in tasks]
    show.promise("each container has an address of its host's part of the range", len({str(a)[: str(a).rindex(".")] for a, *_ in own}) == 2, f"{own}")
    both_ways(show, cluster, tasks, "over the overlay")
    for host in hosts:
        host.ssh("pkill -9 -f '[p]lenum agent'")
    cluster.wait_healthy(120)
    after = cluster.wait_app("/talk", 2, 60)
    same = {(t["id"], json.dumps(t["ipAddresses"])) for t in after} == {(t["id"], json.dumps(t["ipAddresses"])) for t in tasks}
    show.promise("the same containers have the same addresses after kill -9 of their agents", same)
    both_ways(show, cluster, tasks, "after that")
    return tasks
