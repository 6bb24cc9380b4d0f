//! Events as a master sends them, in short.

use plenum_sdk::operator::Event;
use serde_json::{Value, json};

pub fn event(value: Value) -> Event {
    serde_json::from_value(value).expect("the test's event is well-formed")
}

pub fn agent(number: u32) -> Value {
    json!({
        "agent_info": {"id": {"value": format!("c-S{number}")}, "hostname": format!("10.0.0.{}", number + 1), "port": 5051},
        "active": true, "version": "1", "pid": format!("slave(1)@10.0.0.{}:5051", number + 1),
    })
}

pub fn framework() -> Value {
    json!({"framework_info": {
        "id": {"value": "fw"}, "user": "root", "name": "marathon", "webui_url": "https://10.0.0.9:8080"
    }, "active": true, "connected": true, "recovered": false})
}

pub fn task(id: &str, agent: u32, port: u16, state: &str) -> Value {
    json!({
        "name": "web.shop", "task_id": {"value": id}, "framework_id": {"value": "fw"},
        "agent_id": {"value": format!("c-S{agent}")}, "state": state,
        "health_check": {"type": "HTTP", "http": {"port": port}},
        "discovery": {"visibility": "FRAMEWORK", "name": "web.shop", "ports": {"ports": [
            {"number": port, "name": "web", "protocol": "tcp", "labels": {"labels": [{"key": "VIP_0", "value": "/shop/web:80"}]}},
            {"number": port + 1, "name": "admin", "protocol": "tcp"},
        ]}},
    })
}

pub fn snapshot(agents: &[u32], recovered: &[u32], tasks: Vec<Value>) -> Event {
    let agents: Vec<Value> = agents.iter().map(|n| agent(*n)).collect();
    let recovered: Vec<Value> = recovered.iter().map(|n| agent(*n)["agent_info"].clone()).collect();
    event(json!({"type": "SUBSCRIBED", "subscribed": {"get_state": {
        "get_tasks": {"tasks": tasks},
        "get_frameworks": {"frameworks": [framework()]},
        "get_agents": {"agents": agents, "recovered_agents": recovered},
    }}}))
}

pub fn added(task: Value) -> Event {
    event(json!({"type": "TASK_ADDED", "task_added": {"task": task}}))
}

pub fn updated(id: &str, state: &str, healthy: Option<bool>) -> Event {
    event(json!({"type": "TASK_UPDATED", "task_updated": {
        "framework_id": {"value": "fw"}, "state": state,
        "status": {"task_id": {"value": id}, "state": state, "healthy": healthy},
    }}))
}
