//! Features of the Linux kernel, each tried in namespaces of its own so that nothing of it stays: overlayfs, nftables, vxlan.
//! The trial is this same program, started as a child in new namespaces (`plenum host facts --probe NAME`).

use std::collections::BTreeMap;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use plenum_plan::facts::Probe;

use crate::run::run;

const NAMES: [&str; 3] = ["overlay", "nftables", "vxlan"];

/// Tries all of them.
pub fn probe() -> BTreeMap<String, Probe> {
    let own = std::env::current_exe().unwrap_or_default();
    let own = own.to_string_lossy();
    let one = |name: &str| {
        if !nix::unistd::geteuid().is_root() {
            return Probe { works: None, reason: "only root can try".to_owned() };
        }
        let said = run(&own, &["host", "facts", "--probe", name], Duration::from_secs(10));
        match said.code {
            Some(0) => Probe { works: Some(true), reason: String::new() },
            Some(3) => Probe { works: Some(false), reason: said.complaint() },
            _ => Probe { works: None, reason: said.complaint() },
        }
    };
    NAMES.iter().map(|name| ((*name).to_owned(), one(name))).collect()
}

/// The child's part: tries one and returns the process' exit code, 0 works, 3 does not, 4 could not be tried.
#[must_use]
pub fn try_one(name: &str) -> u8 {
    let tried = match name {
        "overlay" => overlay(),
        "nftables" => nftables(),
        "vxlan" => vxlan(),
        _ => Err((4, format!("{name} is no feature that is tried"))),
    };
    match tried {
        Ok(()) => 0,
        Err((code, reason)) => {
            eprintln!("{reason}");
            code
        }
    }
}

type Tried = Result<(), (u8, String)>;

fn alone(flags: CloneFlags) -> Tried {
    unshare(flags).map_err(|error| (4, format!("no namespace for the trial: {error}")))
}

fn overlay() -> Tried {
    alone(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    let untried = |error: nix::Error| (4, format!("the trial cannot be set up: {error}"));
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(untried)?;
    mount(Some("probe"), "/mnt", Some("tmpfs"), MsFlags::empty(), none).map_err(untried)?;
    for folder in ["lower", "upper", "work", "all"] {
        std::fs::create_dir(format!("/mnt/{folder}")).map_err(|error| (4, error.to_string()))?;
    }
    let options = "lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work";
    mount(Some("probe"), "/mnt/all", Some("overlay"), MsFlags::empty(), Some(options))
        .map_err(|error| (3, format!("mounting an overlay: {error}")))
}

fn nftables() -> Tried {
    alone(CloneFlags::CLONE_NEWNET)?;
    let rules = "table ip probe {\n chain out {\n  type nat hook output priority -100;\n  ip daddr 11.0.0.1 tcp dport 80 dnat to numgen \
                 inc mod 2 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }\n }\n}\n";
    let said = crate::run::run_with("nft", &["-f", "-"], rules, Duration::from_secs(5));
    match (said.ok, said.code) {
        (true, _) => Ok(()),
        (_, Some(_)) => Err((3, said.complaint())),
        _ => Err((4, said.complaint())),
    }
}

fn vxlan() -> Tried {
    alone(CloneFlags::CLONE_NEWNET)?;
    let arguments = ["link", "add", "probe0", "type", "vxlan", "id", "7", "dstport", "4789"];
    let said = run("ip", &arguments, Duration::from_secs(5));
    match (said.ok, said.code) {
        (true, _) => Ok(()),
        (_, Some(_)) => Err((3, said.complaint())),
        _ => Err((4, said.complaint())),
    }
}
