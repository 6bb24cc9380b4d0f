//! `plenum up`: a datacenter of one node on this machine. The first start makes the certificate authority, the certificates and the first
//! account; each start writes the roles' settings, starts a supervisor, and watches until every role serves. One that is up already is
//! left alone; roles whose supervisor was killed are adopted by a new one.

pub mod progress;

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use plenum_base::places::{Bases, Instance, Places};
use plenum_cli::api::Session;
use plenum_cli::context::{Context as Login, Contexts};

use crate::roles::{self, Choices};
use crate::supervise::control::{Report, Reports, Request};
use crate::supervise::{self, Settings};
use crate::{demo, down};
use progress::Progress;

/// Everything serves within this time, or `up` gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the datacenter is started.
#[derive(clap::Args, Debug, Clone)]
pub struct Up {
    /// The instance; several live side by side.
    #[arg(long, env = "PLENUM_INSTANCE", default_value = "default")]
    pub instance: Instance,
    /// Return once everything serves, and leave it running.
    #[arg(long)]
    pub detach: bool,
    /// Then install the package hello and ask it by name, by its virtual address and through the gateway.
    #[arg(long)]
    pub demo: bool,
    /// Let callers without credentials in: for trying old clients, on a machine that nobody else can reach.
    #[arg(long)]
    pub open: bool,
}

/// Starts an instance.
pub fn run(up: &Up) -> Result<()> {
    let mut progress = Progress::new();
    let bases = Bases::of_this_user();
    let places = bases.open(&up.instance)?;
    places
        .create()
        .and_then(|()| places.create_data())
        .with_context(|| format!("the folder {} cannot be made", places.state.display()))?;
    if !places.root {
        progress.note(
            "without root: no isolation and no limits for tasks, no virtual addresses, DNS on port 1053",
        );
    }
    let mut password = None;
    let report = match raise(up, &places, &mut progress, &mut password) {
        Ok(report) => report,
        Err(error) => {
            leave(&places, password.is_some());
            return Err(error);
        }
    };
    progress.step(&format!("instance {} is up: {} components", report.instance, report.roles.len()));
    if let Some(password) = password {
        // Shown only now: where the first start fails, account and certificates go with it.
        progress.note(&format!("the user admin has the password {password} — it is not shown again"));
        remember(&places, &password)?;
    }
    if up.demo {
        demo::run(&places, &progress)?;
    }
    if up.detach {
        return Ok(());
    }
    progress.note("Ctrl-C stops it; `plenum up --detach` would leave it running");
    stay(&places)
}

/// Starts what does not run yet and waits until every role serves. `password` becomes the first account's, where one was made.
fn raise(up: &Up, places: &Places, progress: &mut Progress, password: &mut Option<String>) -> Result<Report> {
    let control = Settings::control(&places.run);
    if Reports::ask(&control, Request::Status, Duration::from_secs(2)).is_ok() {
        progress.step("already running");
    } else if supervise::has_orphans(&places.run)? {
        start_supervisor(places)?;
        progress.step("adopted the components of a supervisor that was killed");
    } else {
        *password = prepare(places, Choices { open: up.open })?;
        progress.step("certificates and settings");
        start_supervisor(places)?;
    }
    watch(places, progress)
}

/// A start that failed leaves nothing running, and a first one nothing at all, but for the logs' last lines, which its error quotes.
fn leave(places: &Places, first: bool) {
    let left = if first {
        down::run(&down::Down { instance: places.instance.clone(), purge: true })
    } else {
        down::stop_roles(places)
    };
    if let Err(error) = left {
        eprintln!("what was started could not all be stopped: {error:#}");
    }
}

/// Logs the first account in, so that the command line works at once for whoever started the instance.
fn remember(places: &Places, password: &str) -> Result<()> {
    let ca = std::fs::read_to_string(places.ca()).context("the cluster's CA certificate")?;
    let url = format!("https://{}", places.gateway_tls());
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let login = Session::login(places.instance.as_str(), &url, &ca, "admin", password);
    let (_, token) = tokio.block_on(login).context("the first login")?;
    let context = Login { url, ca, token: Some(token), user: Some("admin".to_owned()) };
    Contexts::of_this_user().save(&places.instance, &context).context("the login cannot be kept")?;
    Ok(())
}

/// Makes what is missing and writes the roles' settings. Gives the first account's password where one was made.
fn prepare(places: &Places, choices: Choices) -> Result<Option<String>> {
    let config = plenum_identity::Config {
        instance: places.instance.clone(),
        number: places.number,
        open: choices.open,
        ..Default::default()
    };
    plenum_base::service::install_crypto();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let first = runtime.block_on(plenum_identity::bootstrap(&config)).context("the certificate authority")?;
    for role in roles::ROLES {
        let text = roles::settings(places, role, choices)?;
        let path = places.config(role);
        plenum_base::files::replace(&path, text.as_bytes(), 0o600)
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(first.admin.map(|admin| admin.password))
}

/// Starts `plenum supervise` in a session of its own: it outlives this command and this terminal.
fn start_supervisor(places: &Places) -> Result<()> {
    let log = places.state.join("log/supervisor.log");
    let output = std::fs::OpenOptions::new().append(true).create(true).open(&log);
    let output = output.with_context(|| format!("open {}", log.display()))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["supervise", "--instance", places.instance.as_str()]).stdin(Stdio::null());
    command.stdout(output.try_clone()?).stderr(output).process_group(0).current_dir("/");
    let mut child = command.spawn().context("the supervisor cannot be started")?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if Reports::ask(&Settings::control(&places.run), Request::Status, Duration::from_secs(2)).is_ok() {
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            bail!("the supervisor ended with {status}:\n{}", progress::tail(&log.to_string_lossy(), 5));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("the supervisor does not answer; see {}", log.display())
}

/// Follows the reports until every role serves.
fn watch(places: &Places, progress: &mut Progress) -> Result<Report> {
    let mut reports = Reports::ask(&Settings::control(&places.run), Request::Watch, PATIENCE)?;
    let mut last = None;
    while let Some(report) = reports.next()? {
        progress.report(&report);
        if let Some(failed) = &report.failed {
            bail!(explain(failed, last.as_ref().unwrap_or(&report)));
        }
        if report.up {
            return Ok(report);
        }
        last = Some(report);
    }
    bail!("the supervisor ended; see {}", places.state.join("log/supervisor.log").display())
}

/// Which role failed, why, and the end of its log.
fn explain(failed: &str, report: &Report) -> String {
    let role = report.roles.iter().find(|role| failed.starts_with(&role.role));
    match role {
        Some(role) => {
            format!("{failed}\nits log is {}; the last lines:\n{}", role.log, progress::tail(&role.log, 8))
        }
        None => failed.to_owned(),
    }
}

/// Waits for Ctrl-C, then stops everything.
fn stay(places: &Places) -> Result<()> {
    use nix::sys::signal::{SigSet, Signal};
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    signals.wait()?;
    println!();
    down::run(&down::Down { instance: places.instance.clone(), purge: false })
}

/// `plenum supervise`: what `up` starts in the background.
pub fn supervise(instance: &Instance) -> Result<()> {
    let places = Bases::of_this_user().open(instance)?;
    supervise::run(Settings {
        instance: instance.to_string(),
        logs: places.state.join("log"),
        roles: roles::ROLES.into_iter().map(|role| roles::spec(&places, role)).collect(),
        run: places.run.clone(),
    })
}

/// `plenum status`: how the components of an instance are.
pub fn status(instance: &Instance) -> Result<Report> {
    let unknown =
        || format!("there is no instance {instance}; start one with `plenum up --instance {instance}`");
    let places = Bases::of_this_user().find(instance)?.with_context(unknown)?;
    Reports::ask(&Settings::control(&places.run), Request::Status, Duration::from_secs(5))
        .and_then(|mut reports| reports.next())
        .ok()
        .flatten()
        .with_context(|| {
            format!("the instance {instance} is not running; start it with `plenum up --instance {instance}`")
        })
}
