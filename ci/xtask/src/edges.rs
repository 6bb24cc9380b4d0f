//! The boundary between kernel space and user space, enforced: which crate may depend on which.

use anyhow::{Result, bail};

use crate::metadata;

/// What user space may use of the kernel.
const SYSTEM_CALLS: [&str; 3] = ["kernel/api", "kernel/base", "kernel/store"];

/// Why an edge breaks the plan, or nothing where it obeys it. Arguments are folders.
fn broken(from: &str, to: &str) -> Option<&'static str> {
    let space = |folder: &str| folder.split('/').next().unwrap_or_default().to_owned();
    match (space(from).as_str(), space(to).as_str()) {
        _ if from == "kernel/shim" => Some("the shim depends on none of our crates"),
        _ if from == "kernel/api" => Some("the system-call types depend on nothing of ours"),
        _ if from == "kernel/allocator" && to != "kernel/api" => {
            Some("the allocator is pure: kernel/api only")
        }
        ("kernel", "kernel") => None,
        ("kernel", _) => Some("kernel space never depends on what is built upon it"),
        ("userspace", "kernel") if !SYSTEM_CALLS.contains(&to) => {
            Some("user space uses kernel/api, kernel/base and kernel/store only")
        }
        ("userspace" | "installer", "ci") => Some("the product does not depend on its tests"),
        ("userspace", "installer") => Some("user space does not depend on the installer"),
        _ => None,
    }
}

/// Fails with every edge that breaks the plan.
pub fn check() -> Result<()> {
    let crates = metadata::crates()?;
    let mut wrong = Vec::new();
    let mut edges = 0;
    for (name, from) in &crates {
        let expected = format!("plenum-{}", from.folder.rsplit('/').next().unwrap_or_default());
        if *name != expected && from.folder != "installer/plenum" {
            wrong.push(format!("{}: the crate is named {name}, not {expected}", from.folder));
        }
        for to in from.edges.iter().filter_map(|edge| crates.get(edge)) {
            edges += 1;
            if let Some(rule) = broken(&from.folder, &to.folder) {
                wrong.push(format!("{} -> {}: {rule}", from.folder, to.folder));
            }
        }
    }
    if !wrong.is_empty() {
        bail!("edges that break the plan:\n  {}", wrong.join("\n  "));
    }
    println!("edges: {} crates, {edges} edges, all as planned", crates.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::broken;

    #[test]
    fn the_boundary_holds() {
        let cases = [
            ("userspace/services", "kernel/api", true),
            ("userspace/services", "kernel/store", true),
            ("userspace/services", "kernel/master", false),
            ("userspace/services", "userspace/sdk", true),
            ("kernel/master", "userspace/sdk", false),
            ("kernel/master", "kernel/allocator", true),
            ("kernel/allocator", "kernel/base", false),
            ("kernel/shim", "kernel/api", false),
            ("installer/plenum", "kernel/master", true),
            ("userspace/cli", "ci/testkit", false),
        ];
        for (from, to, allowed) in cases {
            assert_eq!(broken(from, to).is_none(), allowed, "{from} -> {to}");
        }
    }
}
