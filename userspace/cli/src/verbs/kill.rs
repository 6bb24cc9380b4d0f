//! `plenum app kill`: ends instances of an app; others take their place, unless the app is to shrink with them.

use clap::Args;
use serde_json::json;

use super::ended::is_meant;
use crate::api::Session;
use crate::api::apps::App;
use crate::error::{CliError, Result};
use crate::screen::{Output, Screen};
use crate::text::clean;

/// Shown by `plenum app kill --help`.
pub(crate) const EXAMPLES: &str = "Examples:
  plenum app kill /web                    all instances; others take their place
  plenum app kill /web 3f2a               this one
  plenum app kill /web 3f2a --scale       this one, and the app has one fewer
  plenum app kill /db 3f2a --wipe         this one and the data on its volumes";

/// What ends.
#[derive(Args, Debug)]
pub struct Killing {
    /// The app's id
    id: String,
    /// Only these instances: their ids, or the beginnings of what tells them apart
    #[arg(value_name = "INSTANCE")]
    which: Vec<String>,
    /// The app has so many fewer afterwards
    #[arg(long)]
    scale: bool,
    /// Destroy their persistent volumes as well
    #[arg(long)]
    wipe: bool,
    /// Supersede deployments of the same app that are under way
    #[arg(long)]
    force: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub(crate) async fn run(
    session: &Session,
    output: Output,
    what: &Killing,
    screen: &mut Screen,
) -> Result<()> {
    let app = session.app(&what.id).await?;
    let tasks = meant(&app, &what.which)?;
    if tasks.is_empty() {
        let text = format!("{} has no instances", clean(&app.id));
        return screen.outcome(output, &json!({"id": app.id, "killed": tasks}), &text);
    }
    let count = tasks.len();
    let data = if what.wipe { " and destroy the data on their volumes" } else { "" };
    let all = if what.which.is_empty() { "all " } else { "" };
    let question = format!("End {all}{count} instances of {}{data}?", clean(&app.id));
    let grave = what.wipe || what.which.is_empty();
    if screen.asks && !what.yes && grave && !screen.agrees(&question)? {
        return Err(CliError::Local("nothing was ended".to_owned()));
    }
    session.kill_tasks(&tasks, what.scale, what.wipe, what.force).await?;
    let after = match (what.scale, what.wipe) {
        (true, _) => format!("the app has {} afterwards", app.instances.saturating_sub(count as u64)),
        (false, true) => "new ones with empty volumes take their place".to_owned(),
        (false, false) => "others take their place".to_owned(),
    };
    let text = format!("{count} instances of {} are told to end; {after}", clean(&app.id));
    screen.outcome(output, &json!({"id": app.id, "killed": tasks}), &text)
}

/// The tasks of the instances that are meant; of all where none is named.
fn meant(app: &App, which: &[String]) -> Result<Vec<String>> {
    if which.is_empty() {
        return Ok(app.tasks.iter().map(|task| task.id.clone()).collect());
    }
    let mut found: Vec<String> = Vec::new();
    for wanted in which {
        let mut fits = app.tasks.iter().filter(|task| is_meant(&task.id, wanted));
        let (first, more) = (fits.next(), fits.next());
        let task = match (first, more) {
            (Some(task), None) => task,
            (Some(_), Some(_)) => {
                let text = format!("several instances are meant by {}; give more of the id", clean(wanted));
                return Err(CliError::Usage(text));
            }
            (None, _) => {
                let id = clean(&app.id);
                return Err(CliError::Usage(format!(
                    "no instance of {id} is called {}; `plenum app show {id}` shows them",
                    clean(wanted)
                )));
            }
        };
        if !found.contains(&task.id) {
            found.push(task.id.clone());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_found_by_what_tells_them_apart() {
        let task = |id: &str| json!({"id": format!("web.instance-{id}._app.1")});
        let app = json!({"id": "/web", "instances": 3, "tasks": [task("aa1"), task("bb2"), task("bb3")]});
        let app: App = serde_json::from_value(app).unwrap();
        let found = |which: &[&str]| {
            let which: Vec<String> = which.iter().map(ToString::to_string).collect();
            meant(&app, &which).map_err(|error| error.to_string())
        };
        assert_eq!(found(&[]).unwrap().len(), 3);
        assert_eq!(found(&["aa", "web.instance-aa1"]).unwrap(), ["web.instance-aa1._app.1"]);
        assert!(found(&["bb"]).unwrap_err().contains("several instances are meant by bb"));
        assert!(found(&["cc"]).unwrap_err().contains("`plenum app show /web` shows them"));
    }
}
