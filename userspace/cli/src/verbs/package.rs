//! `plenum package`: the catalog.

use clap::Subcommand;
use serde_json::{Map, Value};

use super::wait::{Goal, Waiting, until};
use super::{parse_document, read_file, view};
use crate::Global;
use crate::api::Session;
use crate::api::packages::{Found, Installation, Installed, Repository};
use crate::error::{CliError, Result};
use crate::screen::{Output, Screen};
use crate::table::{Cell, Look, Table};
use crate::text::{clean, clean_lines, plain};

/// Shown by `plenum package --help`.
pub(crate) const EXAMPLES: &str = "Examples:
  plenum package search                         what there is
  plenum package describe hello                 what it is, its versions and options
  plenum package install hello                  install it and wait until it is healthy
  plenum package install hello --set service.instances=3 --app-id /hello-3
  plenum package uninstall hello";

/// What to do with packages.
#[derive(Subcommand, Debug)]
pub enum PackageVerb {
    /// Find packages
    #[command(
        after_help = "Examples:\n  plenum package search\n  plenum package search web\n  plenum package search 'hel*'"
    )]
    Search {
        /// Words in the name, description or tags; * stands for anything
        query: Option<String>,
    },
    /// Show what a package is
    #[command(
        after_help = "Examples:\n  plenum package describe hello\n  plenum package describe hello -o json"
    )]
    Describe {
        /// The package's name
        name: String,
        /// Its version; the newest where absent
        #[arg(long)]
        version: Option<String>,
    },
    /// Show installed packages
    #[command(alias = "ls", after_help = "Examples:\n  plenum package list\n  plenum package list --watch")]
    List {
        /// Go on showing it
        #[arg(long, short)]
        watch: bool,
    },
    /// Install a package
    #[command(
        after_help = "Examples:\n  plenum package install hello\n  plenum package install hello --version 1.0.0 --options options.yaml\n  plenum package install hello --set service.instances=3"
    )]
    Install {
        /// The package's name
        name: String,
        /// Its version; the newest where absent
        #[arg(long)]
        version: Option<String>,
        /// The app's id; the package's own where absent
        #[arg(long, value_name = "ID")]
        app_id: Option<String>,
        /// Options as JSON or YAML; - for the standard input
        #[arg(long, value_name = "FILE")]
        options: Option<String>,
        /// One option, over those of the file: dots lead inside, the value is JSON or a text
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Remove an installed package
    #[command(
        alias = "remove",
        after_help = "Examples:\n  plenum package uninstall hello\n  plenum package uninstall hello --app-id /hello-3 --yes\n  plenum package uninstall hello --all"
    )]
    Uninstall {
        /// The package's name
        name: String,
        /// Which app, where it is installed more than once
        #[arg(long, value_name = "ID")]
        app_id: Option<String>,
        /// All of them
        #[arg(long, conflicts_with = "app_id")]
        all: bool,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Show and change where packages come from
    #[command(alias = "repos")]
    Repo {
        /// What to do.
        #[command(subcommand)]
        verb: RepoVerb,
    },
}

/// What to do with repositories.
#[derive(Subcommand, Debug)]
pub enum RepoVerb {
    /// Show the repositories; the first leads
    #[command(alias = "ls", after_help = "Examples:\n  plenum package repo list")]
    List,
    /// Add a repository
    #[command(
        after_help = "Examples:\n  plenum package repo add mine https://packages.example/repo --index 0"
    )]
    Add {
        /// Its name
        name: String,
        /// Its address
        uri: String,
        /// Its place, 0 leads; the end where absent
        #[arg(long)]
        index: Option<u32>,
    },
    /// Remove a repository; what was installed from it stays
    #[command(alias = "rm", after_help = "Examples:\n  plenum package repo remove mine")]
    Remove {
        /// Its name
        name: String,
    },
}

pub(crate) async fn run(
    session: &Session,
    global: &Global,
    verb: &PackageVerb,
    screen: &mut Screen,
) -> Result<()> {
    let output = global.output;
    match verb {
        PackageVerb::Search { query } => {
            let found = session.search(query.as_deref()).await?;
            let text = screen.form(output, &found, || search_table(&found))?;
            screen.print(&text)
        }
        PackageVerb::Describe { name, version } => {
            let package = session
                .describe(name, version.as_deref())
                .await
                .map_err(|error| search_first(error, name))?;
            let text = match output {
                Output::Table | Output::Wide => describe_text(&package, screen.look(output)),
                _ => screen.form(output, &package, || search_table(&[]))?,
            };
            screen.print(&text)
        }
        PackageVerb::List { watch } => {
            view(screen, *watch, async |screen| {
                let installed = session.installed().await?;
                screen.form(output, &installed, || installed_table(&installed))
            })
            .await
        }
        PackageVerb::Install { name, version, app_id, options, set, waiting } => {
            let options = gather(options.as_deref(), set, screen)?;
            let (name, version, app_id) = (name.clone(), version.clone(), app_id.clone());
            install(session, output, &Installation { name, version, app_id, options }, waiting, screen).await
        }
        PackageVerb::Uninstall { name, app_id, all, yes, waiting } => {
            let question = format!("Uninstall {name} and everything it runs?");
            if screen.asks && !yes && !screen.agrees(&question)? {
                return Err(CliError::Local("nothing was uninstalled".to_owned()));
            }
            uninstall(session, output, (name, app_id.as_deref(), *all), waiting, screen).await
        }
        PackageVerb::Repo { verb } => {
            let all = match verb {
                RepoVerb::List => session.repositories().await?,
                RepoVerb::Add { name, uri, index } => session.add_repository(name, uri, *index).await?,
                RepoVerb::Remove { name } => session.remove_repository(name).await?,
            };
            let text = screen.form(output, &all, || repository_table(&all))?;
            screen.print(&text)
        }
    }
}

fn search_first(error: CliError, name: &str) -> CliError {
    error.or_else_try(
        400,
        &format!("`plenum package search` shows what there is, `plenum package describe {name}` its options"),
    )
}

async fn install(
    session: &Session,
    output: Output,
    what: &Installation,
    waiting: &Waiting,
    screen: &mut Screen,
) -> Result<()> {
    screen.progress(&format!("installing {}", what.name))?;
    let next = "give the second one another id with --app-id ID, or see `plenum package list`";
    let done = session
        .install(what)
        .await
        .map_err(|error| search_first(error.or_else_try(409, next), &what.name))?;
    let tables = matches!(output, Output::Table | Output::Wide);
    if tables {
        let at = done.app_id.as_deref().map(|id| format!(" as {}", clean(id))).unwrap_or_default();
        screen.print(&format!(
            "installed {} {}{at}\n",
            clean(&done.package_name),
            clean(&done.package_version)
        ))?;
    }
    if let Some(id) = &done.app_id {
        let text = until(session, id, Goal::Running, waiting, screen).await?;
        if tables {
            screen.print(&text)?;
        }
    }
    if !tables {
        let text = screen.form(output, &done, || search_table(&[]))?;
        return screen.print(&text);
    }
    match &done.post_install_notes {
        Some(notes) => screen.print(&format!("\n{}\n", clean_lines(notes))),
        None => Ok(()),
    }
}

async fn uninstall(
    session: &Session,
    output: Output,
    (name, app_id, all): (&str, Option<&str>, bool),
    waiting: &Waiting,
    screen: &mut Screen,
) -> Result<()> {
    screen.progress(&format!("uninstalling {name}"))?;
    let gone = session.uninstall(name, app_id, all).await.map_err(|error| {
        error.or_else_try(400, "`plenum package list` shows what is installed; --app-id ID chooses one of several, --all takes them all")
    })?;
    for one in gone.iter().filter(|one| !waiting.no_wait && !one.app_id.is_empty()) {
        until(session, &one.app_id, Goal::Uninstalled, waiting, screen).await?;
    }
    if !matches!(output, Output::Table | Output::Wide) {
        let text = screen.form(output, &gone, || search_table(&[]))?;
        return screen.print(&text);
    }
    for one in &gone {
        screen.print(&format!("uninstalled {} ({})\n", clean(&one.package_name), clean(&one.app_id)))?;
        if let Some(notes) = &one.post_uninstall_notes {
            screen.print(&format!("{}\n", clean_lines(notes)))?;
        }
    }
    Ok(())
}

/// Options of a file and of arguments.
fn gather(file: Option<&str>, set: &[String], screen: &mut Screen) -> Result<Option<Map<String, Value>>> {
    let mut options = match file {
        None if set.is_empty() => return Ok(None),
        None => Map::new(),
        Some(file) => match parse_document(file, &read_file(file, screen)?)? {
            Value::Object(map) => map,
            _ => return Err(CliError::Usage(format!("{file} holds no object of options"))),
        },
    };
    for one in set {
        put(&mut options, one)?;
    }
    Ok(Some(options))
}

/// Puts `a.b=value` into the options.
fn put(options: &mut Map<String, Value>, text: &str) -> Result<()> {
    let wrong = || CliError::Usage(format!("--set {text} is not KEY=VALUE, such as service.instances=3"));
    let (key, value) = text.split_once('=').ok_or_else(wrong)?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    let mut path: Vec<&str> = key.split('.').collect();
    let last = path.pop().filter(|last| !last.is_empty()).ok_or_else(wrong)?;
    let mut here = options;
    for part in path {
        let inner = here.entry(part).or_insert_with(|| Value::Object(Map::new()));
        here = inner.as_object_mut().filter(|_| !part.is_empty()).ok_or_else(wrong)?;
    }
    here.insert(last.to_owned(), value);
    Ok(())
}

fn search_table(found: &[Found]) -> Table {
    let mut table = Table::new(
        &["NAME", "VERSION", "DESCRIPTION"],
        &["VERSIONS", "TAGS"],
        "no package fits; `plenum package search` without words shows all",
    );
    for package in found {
        let versions: Vec<&str> = package.versions.keys().map(String::as_str).collect();
        table.row(vec![
            Cell::from(&package.name),
            Cell::from(&package.current_version),
            Cell::from(&package.description),
            versions.join(",").into(),
            package.tags.join(",").into(),
        ]);
    }
    table
}

fn installed_table(installed: &[Installed]) -> Table {
    let mut table = Table::new(
        &["NAME", "VERSION", "APP"],
        &["DESCRIPTION"],
        "no packages are installed; `plenum package search` shows what there is",
    );
    let text = |package: &Installed, key: &str| {
        plain(package.package_information.package_definition.get(key).unwrap_or(&Value::Null))
    };
    let mut sorted: Vec<&Installed> = installed.iter().collect();
    sorted.sort_by(|a, b| a.app_id.cmp(&b.app_id));
    for package in sorted {
        table.row(vec![
            text(package, "name").into(),
            text(package, "version").into(),
            Cell::from(&package.app_id),
            text(package, "description").into(),
        ]);
    }
    table
}

fn repository_table(all: &[Repository]) -> Table {
    let mut table = Table::new(
        &["NAME", "ADDRESS"],
        &[],
        "no repositories; add one with `plenum package repo add NAME URI`",
    );
    for repository in all {
        table.row(vec![Cell::from(&repository.name), Cell::from(&repository.uri)]);
    }
    table
}

fn describe_text(package: &Map<String, Value>, look: Look) -> String {
    let text = |key: &str| package.get(key).map(plain).unwrap_or_default();
    let mut out = format!("{} {}\n{}\n", text("name"), text("version"), text("description"));
    for (key, name) in [("maintainer", "maintainer"), ("website", "website"), ("scm", "source")] {
        if !text(key).is_empty() {
            out.push_str(&format!("{name}: {}\n", text(key)));
        }
    }
    if let Some(tags) = package.get("tags").and_then(Value::as_array).filter(|tags| !tags.is_empty()) {
        out.push_str(&format!("tags: {}\n", tags.iter().map(plain).collect::<Vec<_>>().join(", ")));
    }
    if let Some(notes) = package.get("preInstallNotes").and_then(Value::as_str) {
        out.push_str(&format!("\n{}\n", clean_lines(notes)));
    }
    if let Some(Value::Object(schema)) = package.get("config") {
        let mut table = Table::new(&["OPTION", "TYPE", "DEFAULT", "DESCRIPTION"], &[], "no options");
        options("", schema, 0, &mut table);
        out.push('\n');
        out.push_str(&table.render(look));
    }
    out
}

/// A row an option, by its path.
fn options(base: &str, schema: &Map<String, Value>, depth: usize, table: &mut Table) {
    // Schemas of strangers may nest without end.
    if depth > 16 {
        return;
    }
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let Value::Object(property) = property else { continue };
        let path = if base.is_empty() { name.clone() } else { format!("{base}.{name}") };
        if property.contains_key("properties") {
            options(&path, property, depth + 1, table);
            continue;
        }
        let text = |key: &str| property.get(key).map(plain).unwrap_or_default();
        table.row(vec![path.into(), text("type").into(), text("default").into(), text("description").into()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn options_are_put_together() {
        let mut options = json!({"hello": {"cpus": 0.1, "name": "a"}}).as_object().unwrap().clone();
        for text in ["hello.instances=3", "hello.name=b c", "x=[1]", "a.b.c=true", "t=12a"] {
            put(&mut options, text).unwrap();
        }
        assert_eq!(
            Value::Object(options.clone()),
            json!({"hello": {"cpus": 0.1, "name": "b c", "instances": 3}, "x": [1], "a": {"b": {"c": true}}, "t": "12a"})
        );
        for bad in ["", "x", "=1", "hello.=1", "hello..x=1", "x.y=1", ".x=1"] {
            assert!(matches!(put(&mut options, bad), Err(CliError::Usage(_))), "{bad}");
        }
    }

    #[test]
    fn packages_look_like_this() {
        let found: Vec<Found> = serde_json::from_value(json!([
            {"name": "hello", "currentVersion": "1.0.0", "versions": {"1.0.0": 0, "0.9": "1"}, "description": "A web service", "tags": ["web"]}
        ]))
        .unwrap();
        assert_eq!(
            search_table(&found).render(Look { wide: true, ..Look::default() }),
            "NAME   VERSION  DESCRIPTION    VERSIONS   TAGS\nhello  1.0.0    A web service  0.9,1.0.0  web\n"
        );
        let installed: Vec<Installed> = serde_json::from_value(json!([
            {"appId": "/hello", "packageInformation": {"packageDefinition": {"name": "hello", "version": "1.0.0"}}},
            {"appId": "/bare", "packageInformation": null}
        ]))
        .unwrap();
        assert_eq!(
            installed_table(&installed).render(Look::default()),
            "NAME   VERSION  APP\n                /bare\nhello  1.0.0    /hello\n"
        );
    }

    #[test]
    fn a_description_shows_the_options() {
        let package = json!({
            "name": "hello", "version": "1.0.0", "description": "A web service", "maintainer": "us", "tags": ["web", "demo"],
            "preInstallNotes": "Small.\nQuick.",
            "config": {"properties": {"hello": {"type": "object", "properties": {
                "instances": {"type": "integer", "default": 1, "description": "How many"}, "odd": 3}}}}
        });
        assert_eq!(
            describe_text(package.as_object().unwrap(), Look::default()),
            "hello 1.0.0\nA web service\nmaintainer: us\ntags: web, demo\n\nSmall.\nQuick.\n\n\
             OPTION           TYPE     DEFAULT  DESCRIPTION\nhello.instances  integer  1        How many\n"
        );
    }
}
