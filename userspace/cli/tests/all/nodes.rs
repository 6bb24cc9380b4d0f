//! Nodes taken out of service and put back.

use serde_json::{Value, json};

use crate::world::World;

const SLAVES: &str = "GET /mesos/slaves";
const API: &str = "POST /mesos/api/v1";

fn slaves(drain: Option<&str>, blockers: Value) -> Value {
    let info = drain.map(|state| json!({"state": state, "config": {}}));
    json!({"slaves": [{"id": "S1", "hostname": "n1", "active": drain.is_none(), "deactivated": drain.is_some(),
        "drain_info": info, "drain_blockers": blockers}], "unreachable_slaves": [{"id": "S2", "hostname": "n2"}]})
}

#[tokio::test]
async fn a_drain_is_ordered_and_waited_for() {
    let world = World::start().await;
    let blocker = json!([{"task_id": "web.1", "framework_name": "services", "state": "TASK_KILLING", "waits_for": "end"}]);
    for (drain, blockers) in [(None, json!([])), (Some("DRAINING"), blocker), (Some("DRAINED"), json!([]))] {
        world.gateway.answer(SLAVES, 200, &slaves(drain, blockers));
    }
    world.gateway.raw(API, 200, "");
    let outcome = world.typed(&["node", "drain", "n1", "--deadline", "2m", "--wait"], "", true).await;
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.err.contains("n1 waits for 1 task: web.1 (services, killing)"), "{outcome:?}");
    assert!(outcome.out.starts_with("n1 is drained;"), "{outcome:?}");
    let sent = world.gateway.seen().into_iter().find(|seen| seen.line == API).unwrap().json();
    let expected = json!({"type": "DRAIN_AGENT",
        "drain_agent": {"agent_id": {"value": "S1"}, "max_grace_period": {"seconds": 120}, "mark_gone": false}});
    assert_eq!(sent, expected);
}

#[tokio::test]
async fn nodes_are_switched_and_given_up() {
    let world = World::start().await;
    world.gateway.answer(SLAVES, 200, &slaves(None, json!([])));
    world.gateway.raw(API, 200, "");
    for (words, kind, id) in [
        (&["node", "deactivate", "n1"][..], "deactivate_agent", "S1"),
        (&["node", "reactivate", "n1"], "reactivate_agent", "S1"),
        (&["node", "gone", "n2", "--yes"], "mark_agent_gone", "S2"),
        (&["node", "drain", "S1", "--gone", "-o", "json"], "drain_agent", "S1"),
    ] {
        let outcome = world.run(words).await;
        assert_eq!(outcome.code, 0, "{words:?}: {outcome:?}");
        let sent = world.gateway.seen().pop().unwrap().json();
        assert_eq!(sent["type"], kind.to_ascii_uppercase());
        assert_eq!(sent[kind]["agent_id"]["value"], id);
    }
    let before = world.gateway.lines().len();
    for (words, code) in [
        (&["node", "gone", "n1"][..], 2),
        (&["node", "drain", "n3"], 2),
        (&["node", "drain", "n1", "--deadline", "soon"], 2),
    ] {
        assert_eq!(world.run(words).await.code, code, "{words:?}");
    }
    assert!(
        world.gateway.lines().iter().skip(before).all(|line| line.starts_with("GET ")),
        "nothing was ordered"
    );
    let list = world.run(&["node", "list"]).await;
    assert!(list.out.contains("unreachable"), "{list:?}");
}

#[tokio::test]
async fn a_drain_is_called_off() {
    let world = World::start().await;
    world.gateway.raw(API, 200, "");
    for state in [Some("DRAINING"), Some("DRAINED"), Some("DRAINING"), None] {
        world.gateway.answer(SLAVES, 200, &slaves(state, json!([])));
    }
    for said in ["is called off", "was drained already"] {
        let outcome = world.run(&["node", "drain", "n1", "--cancel"]).await;
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert!(outcome.out.contains(said), "{outcome:?}");
        let sent = world.gateway.seen().pop().unwrap().json();
        let expected = json!({"type": "REACTIVATE_AGENT", "reactivate_agent": {"agent_id": {"value": "S1"}, "cancel_drain": true}});
        assert_eq!(sent, expected);
    }
    let before = world.gateway.lines().len();
    let outcome = world.run(&["node", "reactivate", "n1"]).await;
    assert_eq!(outcome.code, 2, "{outcome:?}");
    assert!(outcome.err.contains("`plenum node drain n1 --cancel`"), "{outcome:?}");
    for words in [&["node", "drain", "n1", "--cancel"][..], &["node", "drain", "n1", "--cancel", "--gone"]] {
        assert_eq!(world.run(words).await.code, 2, "{words:?}");
    }
    assert!(
        world.gateway.lines().iter().skip(before).all(|line| line.starts_with("GET ")),
        "nothing was ordered"
    );
}
