//! What a running container costs besides its own program: the private pages of supervisor and init and their page tables.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// One container's share, in KiB.
#[derive(Debug, Default, Clone, Copy)]
pub struct Cost {
    /// Anonymous pages; what a fork still shares is counted once, in parts.
    pub anonymous: f64,
    /// Pages of files that nobody else has.
    pub files: f64,
    /// Page tables.
    pub tables: f64,
}

impl Cost {
    /// Everything.
    pub fn sum(self) -> f64 {
        self.anonymous + self.files + self.tables
    }
}

/// The mean over all containers with a supervisor below `folder`, and how many there are.
///
/// # Errors
/// When nothing can be read of a process that lives.
pub fn mean(folder: &Path) -> Result<(Cost, usize)> {
    let shims = crate::node::shims(folder);
    let mut all = Cost::default();
    for shim in &shims {
        for pid in std::iter::once(*shim).chain(children(*shim)) {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            all.anonymous += kib(&rollup, "Pss_Anon:")?;
            all.files += kib(&rollup, "Private_Clean:")?;
            all.tables += kib(&fs::read_to_string(format!("/proc/{pid}/status"))?, "VmPTE:")?;
        }
    }
    let count = shims.len().max(1) as f64;
    let each =
        Cost { anonymous: all.anonymous / count, files: all.files / count, tables: all.tables / count };
    Ok((each, shims.len()))
}

/// Direct children: of a supervisor, that is init.
pub fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Resident memory of a process, in KiB.
///
/// # Errors
/// When it is gone.
pub fn resident(pid: u32) -> Result<f64> {
    kib(&fs::read_to_string(format!("/proc/{pid}/status"))?, "VmRSS:")
}

fn kib(text: &str, field: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)).with_context(|| field.to_owned())?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
