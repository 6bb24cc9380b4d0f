//! Scripts of events: what the publisher says, and what a replica has after it.

use plenum_discovery::feed::{Delta, Facts};
use plenum_discovery::publisher::core::{Core, Next};
use plenum_discovery::replica::core::Replica;
use plenum_sdk::operator::Event;
use serde_json::json;

use crate::events::{added, agent, event, snapshot, task, updated};

struct World {
    core: Core,
    replica: Replica,
}

impl World {
    fn new(last: Facts) -> Self {
        let core = Core::new(7, "11.0.0.0/16".parse().unwrap(), Facts::new(), last);
        let mut world = Self { core, replica: Replica::default() };
        world.replica.apply(world.core.whole()).unwrap();
        world
    }

    /// Sends an event through, over the wire format; gives the number of changes.
    fn tell(&mut self, event: Event) -> usize {
        let Some(delta) = self.core.event(&event).0 else { return 0 };
        let wire = serde_json::to_string(&delta).unwrap();
        let delta: Delta = serde_json::from_str(&wire).unwrap();
        let count = delta.changes.len();
        self.replica.apply(delta).unwrap();
        self.check();
        count
    }

    /// A replica that is told everything has the same as one that was told step by step.
    fn check(&self) {
        let mut other = Replica::default();
        other.apply(self.core.whole()).unwrap();
        assert_eq!(other.facts(), self.replica.facts());
        assert!(other.vips().eq(self.replica.vips()));
    }

    fn backends(&self) -> Vec<String> {
        self.replica.vips().flat_map(|vip| vip.backends).map(|to| to.to_string()).collect()
    }

    fn data(&self, name: &str) -> String {
        let data: Vec<String> = self.replica.find(name).data().map(|data| format!("{data:?}")).collect();
        data.join(" ")
    }
}

#[test]
fn the_life_of_a_task() {
    let mut world = World::new(Facts::new());
    world.tell(snapshot(&[0, 1], &[], vec![]));
    assert!(world.data("marathon.mesos").contains("10.0.0.9"));
    let web = "web-shop.marathon.mesos";
    let vip = "shopweb.marathon.l4lb.thisdcos.directory";

    world.tell(added(task("one", 0, 9000, "TASK_STAGING")));
    assert!(!world.replica.find(web).exists(), "not before it runs");
    assert!(world.data(vip).starts_with("A(11.0."), "the address is given out at once");
    let address = world.data(vip);

    world.tell(updated("one", "TASK_RUNNING", None));
    assert_eq!(world.data(web), "A(10.0.0.1)");
    assert!(world.backends().is_empty(), "checked, and not known to be healthy");
    world.tell(updated("one", "TASK_RUNNING", Some(true)));
    assert_eq!(world.backends(), ["10.0.0.1:9000"]);

    assert_eq!(world.tell(updated("one", "TASK_RUNNING", None)), 0, "no news of its health is no bad news");

    world.tell(added(task("two", 1, 9100, "TASK_RUNNING")));
    world.tell(updated("two", "TASK_RUNNING", Some(true)));
    assert_eq!(world.data(web), "A(10.0.0.1) A(10.0.0.2)");
    assert_eq!(world.backends(), ["10.0.0.1:9000", "10.0.0.2:9100"]);

    let srv = world.data("_web._web-shop._tcp.marathon.mesos");
    assert!(
        srv.contains("port: 9000") && srv.contains("port: 9100") && srv.contains("-s1.marathon.mesos"),
        "{srv}"
    );
    assert!(world.data("_web-shop._tcp.marathon.slave.mesos").contains("port: 9101"));
    assert_eq!(world.data("web-shop.marathon.autoip.dcos.thisdcos.directory"), "A(10.0.0.1) A(10.0.0.2)");
    assert_eq!(
        world.data("web-shop.marathon.containerip.dcos.thisdcos.directory"),
        "A(10.0.0.1) A(10.0.0.2)"
    );
    assert!(
        world.replica.find("_tcp.marathon.mesos").exists() && world.data("_tcp.marathon.mesos").is_empty()
    );

    assert_eq!(world.tell(updated("one", "TASK_RUNNING", Some(false))), 1);
    assert_eq!(
        (world.backends(), world.data(web)),
        (vec!["10.0.0.2:9100".to_owned()], "A(10.0.0.2)".to_owned())
    );
    world.tell(updated("one", "TASK_RUNNING", Some(true)));
    assert_eq!(world.tell(updated("two", "TASK_KILLING", Some(true))), 1);
    assert_eq!(world.backends(), ["10.0.0.1:9000"], "a leaving back end gets nothing new");
    assert_eq!(world.tell(updated("two", "TASK_KILLED", None)), 0);
    assert_eq!(world.tell(updated("one", "TASK_FAILED", None)), 2, "the last one takes the address with it");
    assert!(!world.replica.find(web).exists() && !world.replica.find(vip).exists());
    assert!(!world.replica.find("_tcp.marathon.slave.mesos").exists());

    world.tell(added(task("three", 0, 9000, "TASK_STAGING")));
    assert_eq!(world.data(vip), address, "the same name has the same address");
}

#[test]
fn a_new_master_that_knows_nothing_takes_nothing_away() {
    let mut world = World::new(Facts::new());
    let running = |id: &str, agent| {
        let mut task = task(id, agent, 9000, "TASK_RUNNING");
        task["statuses"] = json!([{"task_id": {"value": id}, "state": "TASK_RUNNING", "healthy": true}]);
        task
    };
    world.tell(snapshot(&[0, 1], &[], vec![running("one", 0), running("two", 1)]));
    assert_eq!(world.backends().len(), 2);

    assert_eq!(world.tell(snapshot(&[], &[0, 1], vec![])), 0, "both agents are remembered: nothing changes");
    assert!(world.core.waits());
    let back = event(json!({"type": "AGENT_ADDED", "agent_added": {"agent": agent(0)}}));
    let (delta, next) = world.core.event(&back);
    assert_eq!((delta, next), (None, Next::Resubscribe));
    let new = event(json!({"type": "AGENT_ADDED", "agent_added": {"agent": agent(4)}}));
    assert_eq!(world.core.event(&new).1, Next::GoOn, "a new agent brings nothing");
    world.replica.apply(world.core.whole()).unwrap();
    // Its task had ended meanwhile; the other agent is still away.
    world.tell(snapshot(&[0], &[1], vec![]));
    assert_eq!(world.backends(), ["10.0.0.2:9000"]);
    world.tell(event(json!({"type": "AGENT_REMOVED", "agent_removed": {"agent_id": {"value": "c-S1"}}})));
    assert!(world.backends().is_empty() && !world.core.waits());

    // The same after a restart of this process: what lay on disk stands until a master says otherwise.
    world.tell(snapshot(&[0], &[], vec![running("one", 0)]));
    let mut world = World::new(world.replica.facts().clone());
    assert_eq!(world.backends(), ["10.0.0.1:9000"]);
    assert_eq!(world.tell(snapshot(&[], &[0], vec![])), 0);
    world.tell(snapshot(&[0], &[], vec![]));
    assert!(world.backends().is_empty() && !world.replica.find("web-shop.marathon.mesos").exists());
}

#[test]
fn addresses_by_number_and_ports_inside_a_container() {
    let mut world = World::new(Facts::new());
    world.tell(snapshot(&[0], &[], vec![]));
    let mut task = task("one", 0, 9000, "TASK_RUNNING");
    task["health_check"] = json!(null);
    let scope = json!({"key": "network-scope", "value": "container"});
    let vip = |value: &str| json!({"key": "VIP_0", "value": value});
    task["discovery"]["ports"]["ports"] = json!([
        {"number": 80, "protocol": "tcp", "labels": {"labels": [vip("11.0.7.7:8080"), scope]}},
        {"number": 53, "protocol": "udp", "labels": {"labels": [vip("dns:53"), scope, vip("12.0.0.1:53")]}},
        {"number": 9000, "protocol": "sctp", "labels": {"labels": [vip("x:1")]}},
        {"number": 99999, "protocol": "tcp"},
    ]);
    task["statuses"] = json!([{"task_id": {"value": "one"}, "state": "TASK_RUNNING", "container_status":
        {"network_infos": [{"ip_addresses": [{"ip_address": "9.0.2.3"}, {"ip_address": "fd01:b::3"}]}]}}]);
    world.tell(added(task));
    let vips: Vec<String> = world
        .replica
        .vips()
        .map(|vip| format!("{} {:?} {:?}", vip.protocol.as_str(), vip.name, vip.backends))
        .collect();
    assert_eq!(vips, ["tcp None [9.0.2.3:80]", "udp Some(\"dns.marathon\") [9.0.2.3:53]"]);
    assert_eq!(
        world.data("web-shop.marathon.containerip.dcos.thisdcos.directory"),
        "A(9.0.2.3) Aaaa(fd01:b::3)"
    );
    assert_eq!(world.data("web-shop.marathon.autoip.dcos.thisdcos.directory"), "A(9.0.2.3) Aaaa(fd01:b::3)");
    assert_eq!(world.data("web-shop.marathon.agentip.dcos.thisdcos.directory"), "A(10.0.0.1)");
    assert!(world.data("_web-shop._udp.marathon.mesos").contains("port: 53"));
    let removed = json!({"type": "FRAMEWORK_REMOVED", "framework_removed":
        {"framework_info": {"id": {"value": "fw"}, "user": "", "name": "marathon"}}});
    world.tell(event(removed));
    assert_eq!(world.replica.vips().count(), 0);
    assert_eq!(world.replica.facts().len(), 1, "only the agent is left");
}

#[test]
fn what_a_change_costs_does_not_depend_on_what_exists() {
    let mut world = World::new(Facts::new());
    world.tell(snapshot(&[0], &[], vec![]));
    for n in 0..300u16 {
        world.core.event(&added(task(&format!("t{n}"), 0, 9000 + 2 * n, "TASK_RUNNING")));
    }
    let delta = world.core.event(&updated("t7", "TASK_RUNNING", Some(true))).0.unwrap();
    assert_eq!(delta.changes.len(), 1);
    assert!(serde_json::to_string(&delta).unwrap().len() < 1000);
    let gap = Delta { generation: delta.generation + 1, ..delta.clone() };
    assert!(world.replica.apply(gap).is_err(), "a missed step is noticed");
    // A death that this node saw itself: the publisher may still say that it runs.
    world.replica.apply(world.core.whole()).unwrap();
    assert!(world.replica.bury("fw", "t7").is_some());
    world.replica.apply(world.core.whole()).unwrap();
    assert!(world.replica.bury("fw", "t7").is_none() && !world.replica.facts().contains_key("task/fw/t7"));
}
