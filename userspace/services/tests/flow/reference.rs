//! The tables of `docs/reference` against the running server: what they say is there is, and what they say is not is not.

use std::collections::BTreeSet;

use plenum_services::core::schema::Standing;
use plenum_services::reference::answers::{DEPLOYMENT, GROUP, INFO, QUEUE, RESULT, TASK};
use plenum_services::reference::{ANSWERS, ENDPOINTS};
use serde_json::{Value, json};

use super::world::World;

/// An answer's fields are those of its table; those that are always there are there.
fn compare(answer: &Value, table: &[(&str, Standing)], always: bool) {
    let fields: BTreeSet<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    for name in &fields {
        let known =
            table.iter().any(|(field, standing)| field == name && !matches!(standing, Standing::Missing(_)));
        assert!(known, "{name} is shown: say so in reference/answers.rs");
    }
    for (name, standing) in table.iter().filter(|_| always) {
        let shown = fields.contains(name);
        assert!(
            shown == !matches!(standing, Standing::Missing(_)),
            "{name}: say in reference/answers.rs whether it is shown"
        );
    }
}

#[tokio::test]
async fn what_is_said_to_be_there_is_and_nothing_else() {
    let world = World::start().await;
    let app = json!({"id": "/probe", "cmd": "run", "role": "*"});
    for endpoint in ENDPOINTS.iter().filter(|e| e.path != "/v2/events") {
        for method in endpoint.methods {
            let path =
                endpoint.path.replace("{id}", "probe").replace("{version}", "2020-01-01T00:00:00.000Z");
            let path = path.replace("{taskId}", "t").replace("{instanceId}", "i").replace("{path}", "p");
            let body = match *method {
                "PUT" | "PATCH" if path == "/v2/apps" => json!([app]),
                "PATCH" if path.starts_with("/v2/groups") => json!({"enforceRole": false}),
                "POST" | "PUT" if path.starts_with("/v2/groups") => json!({"dependencies": []}),
                "POST" if path == "/v2/tasks/delete" => json!({"ids": []}),
                _ => app.clone(),
            };
            let body = (!["GET", "HEAD", "DELETE"].contains(method)).then_some(body);
            if (*method, path.as_str()) == ("DELETE", "/v2/leader") {
                // It would be the end of this; `flow::who_leads_gives_it_up` does it.
                continue;
            }
            let (status, _, answer) = world.send(method, &path, body.as_ref()).await;
            let routed = !(status == 404 && answer["message"] == "URI not found");
            match endpoint.standing {
                Standing::Missing(_) => {
                    assert!(
                        status >= 400,
                        "{method} {path} is there ({status}): say so in reference/endpoints.rs"
                    );
                }
                _ => assert!(routed && status < 500, "{method} {path} is not there ({status}): {answer}"),
            }
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn answers_have_the_fields_that_are_said_to_be_shown() {
    let world = World::start().await;
    let body = json!({"id": "/probe/web", "cmd": "run", "cpus": 0.1, "mem": 32, "healthChecks": [{"protocol": "MESOS_TCP"}]});
    assert_eq!(world.send("POST", "/v2/apps", Some(&body)).await.0, 201);
    world.master.offer(4.0, 1000.0);
    let task = world.master.launched(1).await.remove(0);
    compare(&world.get("/v2/deployments").await[0], DEPLOYMENT, true);
    world.master.update(&task, "TASK_RUNNING", Some(true));
    world.until("/v2/deployments", |list| *list == json!([])).await;
    compare(&world.get("/v2/tasks").await["tasks"][0], TASK, false);
    compare(&world.get("/v2/groups/probe").await, GROUP, true);
    compare(&world.get("/v2/info").await, INFO, true);
    let (_, _, result) =
        world.send("PUT", "/v2/apps/probe/web", Some(&json!({"cpus": 100, "role": "*"}))).await;
    compare(&result, RESULT, true);
    world.master.offer(4.0, 1000.0);
    let queue = world
        .until("/v2/queue?embed=lastUnusedOffers", |q| q["queue"][0]["lastUnusedOffers"].is_array())
        .await;
    compare(&queue["queue"][0], QUEUE, false);
    // All but the status of pods, of which there are none.
    assert_eq!(ANSWERS.len(), 7, "a new table is compared, too");
    world.stop().await;
}
