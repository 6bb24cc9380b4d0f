//! `plenum app ended` and `plenum app logs --dead`: instances that are no more, and what they printed as long as their nodes keep it.

use crate::api::Session;
use crate::api::ended::Ended;
use crate::error::{CliError, Result};
use crate::screen::{Output, Screen};
use crate::table::Table;
use crate::text::{age_of, clean};

use super::now;

pub(crate) async fn list(session: &Session, output: Output, id: &str, screen: &mut Screen) -> Result<()> {
    let all = session.ended_instances(id).await?;
    let out = screen.form(output, &all, || table(&all, now()))?;
    screen.print(&out)
}

fn table(all: &[Ended], now: i64) -> Table {
    let head = ["INSTANCE", "ENDED", "NODE", "WHY"];
    let mut table = Table::new(&head, &["NODE ID", "STARTED"], "none has ended that is remembered");
    for one in all {
        let why = if one.asked { "it was asked to".to_owned() } else { clean(&one.reason()) };
        table.row(vec![
            clean(&one.instance_id).into(),
            age_of(now, &one.ended_at).into(),
            clean(&one.host).into(),
            why.into(),
            clean(&one.slave_id).into(),
            clean(&one.started_at).into(),
        ]);
    }
    table
}

/// The one that is meant: by its id, or the beginning of its id or of what tells it apart. The last one where nothing is said; one that nobody asked to
/// end before others.
pub(crate) fn find<'a>(all: &'a [Ended], id: &str, wanted: Option<&str>) -> Result<&'a Ended> {
    let Some(wanted) = wanted else {
        let failed = all.iter().find(|one| !one.asked);
        return failed.or(all.first()).ok_or_else(|| {
            CliError::Unfinished(format!("no instance of {} has ended that is remembered", clean(id)))
        });
    };
    let fits =
        |one: &&Ended| is_meant(&one.instance_id, wanted) || one.tasks.iter().any(|task| task.id == wanted);
    let mut found = all.iter().filter(fits);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err(CliError::Usage(format!(
            "several instances are meant by {}; give more of the id",
            clean(wanted)
        ))),
        (None, _) => Err(CliError::Usage(format!(
            "no instance of {0} that has ended is called {1}; `plenum app ended {0}` shows them",
            clean(id),
            clean(wanted)
        ))),
    }
}

/// Whether somebody who types `wanted` means this instance.
pub(crate) fn is_meant(instance: &str, wanted: &str) -> bool {
    let unique = instance.rsplit_once(".instance-").map_or(instance, |(_, unique)| unique);
    instance.starts_with(wanted) || unique.starts_with(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(id: &str, asked: bool) -> Ended {
        Ended { instance_id: format!("web.instance-{id}"), asked, ..Ended::default() }
    }

    #[test]
    fn the_one_that_is_meant_is_found() {
        let all = [ended("aa1", true), ended("bb2", false), ended("bb3", false)];
        let id = |wanted| {
            find(&all, "/web", wanted).map(|one| one.instance_id.as_str()).map_err(|e| e.to_string())
        };
        assert_eq!(id(None), Ok("web.instance-bb2"), "one that failed before one that was asked");
        assert_eq!(id(Some("aa")), Ok("web.instance-aa1"));
        assert_eq!(id(Some("web.instance-bb3")), Ok("web.instance-bb3"));
        assert!(id(Some("bb")).unwrap_err().contains("several instances are meant by bb"));
        assert!(id(Some("cc")).unwrap_err().contains("`plenum app ended /web` shows them"));
        assert!(find(&[], "/web", None).unwrap_err().to_string().contains("no instance of /web has ended"));
    }
}
