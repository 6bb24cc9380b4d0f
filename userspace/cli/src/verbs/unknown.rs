//! `plenum app unknown` and `plenum app adopt`: what runs or lies on nodes and is wanted by nobody.

use serde_json::{Value, json};

use super::{now, view};
use crate::api::Session;
use crate::error::Result;
use crate::screen::{Output, Screen};
use crate::table::Table;
use crate::text::{age_of, clean};

/// Shown by `plenum app unknown --help`.
pub(crate) const EXAMPLES: &str = "Examples:
  plenum app unknown
  plenum app adopt web.instance-3f2a….1   it is an instance of its app from now on
  plenum app unknown --end web.instance-3f2a….1";

pub(crate) async fn list(session: &Session, output: Output, watch: bool, screen: &mut Screen) -> Result<()> {
    view(screen, watch, async |screen| {
        let all = session.unknown_tasks().await?;
        screen.form(output, &all, || table(&all, now()))
    })
    .await
}

pub(crate) async fn adopt(
    session: &Session,
    output: Output,
    tasks: &[String],
    screen: &mut Screen,
) -> Result<()> {
    let answer = session.adopt(tasks).await?;
    let count = answer["adopted"].as_array().map_or(0, Vec::len);
    screen.outcome(output, &answer, &format!("{count} tasks are instances of their apps now"))
}

pub(crate) async fn end(
    session: &Session,
    output: Output,
    tasks: &[String],
    screen: &mut Screen,
) -> Result<()> {
    session.kill_tasks(tasks, false, false, false).await?;
    let text = format!("{} tasks are told to end", tasks.len());
    screen.outcome(output, &json!({"killed": tasks}), &text)
}

/// Tasks that nobody wrote down, such that were replaced while their nodes were away, and volumes of nobody.
fn table(all: &Value, now: i64) -> Table {
    let head = ["WHAT", "ID", "APP", "STATE", "SINCE", "NODE"];
    let mut table = Table::new(&head, &[], "nothing runs that nobody wants");
    let list = |name: &str| all.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    for (name, what) in [("unknown", "task"), ("replaced", "replaced task"), ("volumes", "volume")] {
        for one in list(name) {
            let of = |key: &str| clean(one.get(key).and_then(Value::as_str).unwrap_or("-"));
            let id = if one.get("id").is_some() { of("id") } else { of("instanceId") };
            let since = one.get("since").and_then(Value::as_str).map(|at| age_of(now, at));
            let node = if one.get("host").is_some_and(Value::is_string) { of("host") } else { of("slaveId") };
            let state = match one.get("wiped").and_then(Value::as_bool) {
                Some(true) => "to be destroyed".to_owned(),
                Some(false) => "of nobody".to_owned(),
                None => of("state"),
            };
            table.row(vec![
                what.into(),
                id.into(),
                of("appId").into(),
                state.into(),
                since.unwrap_or_else(|| "-".to_owned()).into(),
                node.into(),
            ]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Look;

    #[test]
    fn what_nobody_wants_is_listed() {
        let all = json!({
            "unknown": [{"id": "a.instance-1._app.1", "appId": "/a", "slaveId": "s1", "state": "TASK_RUNNING", "since": "1970-01-01T00:00:02.000Z"}],
            "replaced": [{"id": "b.instance-2._app.1", "appId": "/b", "slaveId": "s1", "host": "n1"}],
            "volumes": [{"instanceId": "c.instance-3", "appId": null, "host": "n2", "wiped": false}]
        });
        let rows = table(&all, 5_000).render(Look::default());
        let rows: Vec<Vec<&str>> = rows
            .lines()
            .map(|row| row.split("  ").filter(|w| !w.is_empty()).map(str::trim).collect())
            .collect();
        assert_eq!(rows[1], ["task", "a.instance-1._app.1", "/a", "TASK_RUNNING", "3s", "s1"]);
        assert_eq!(rows[2], ["replaced task", "b.instance-2._app.1", "/b", "-", "-", "n1"]);
        assert_eq!(rows[3], ["volume", "c.instance-3", "-", "of nobody", "-", "n2"]);
    }
}
