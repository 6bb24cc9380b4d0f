"""`apply` is killed at ten random points, each time on bare hosts, and run again: healthy each time."""

import random
import sys
import time

from cluster import Cluster, Show
from hosts import Fleet


def main():
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    show = Show("interrupt")
    dice = random.Random(20261122)
    whole = None
    for number in range(times + 1):
        fleet = Fleet("interrupt", 3)
        h1, h2, h3 = fleet.hosts
        cluster = Cluster(fleet, {h1: ["master", "agent"], h2: ["master", "agent"], h3: ["master", "agent"]})
        if number == 0:
            began = time.monotonic()
            cluster.apply()
            cluster.wait_healthy()
            whole = time.monotonic() - began
            show.say(f"undisturbed: {whole:.1f} s")
        else:
            point = dice.uniform(0.05, 0.95) * whole
            process = cluster.start("install", "apply", "--config", cluster.file, "--yes")
            time.sleep(point)
            early = process.poll() is not None
            process.kill()
            process.communicate()
            began = time.monotonic()
            try:
                cluster.apply()
                cluster.wait_healthy()
                well, saw = True, f"then healthy in {time.monotonic() - began:.1f} s"
            except Exception as error:  # each point is judged by itself
                well, saw = False, str(error)[-1500:]
            show.promise(f"killed after {point:.1f} s{' (had ended)' if early else ''}", well, saw)
        fleet.down()
    show.end()


if __name__ == "__main__":
    main()
