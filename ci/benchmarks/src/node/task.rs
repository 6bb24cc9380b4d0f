//! Tasks for a stand-in master, and the small program that they run: it prints the time of day, first of all.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use plenum_api::mesos::container_info::Type as ContainerType;
use plenum_api::mesos::{
    CommandInfo, ContainerInfo, Image, Resource, TaskInfo, container_info, image, value,
};

use super::master::AGENT;

/// The program's text; it is compiled when a measurement starts, static, so that it runs in an image of its own.
const STAMP: &str = include_str!("stamp.rs.txt");

/// Compiles the program as `folder/stamp`.
///
/// # Errors
/// Without a compiler.
pub fn compile(folder: &Path) -> Result<PathBuf> {
    let (source, program) = (folder.join("stamp.rs"), folder.join("stamp"));
    std::fs::write(&source, STAMP)?;
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let built = Command::new(rustc)
        .args(["--edition", "2021", "-O", "-C", "panic=abort", "-C", "strip=symbols"])
        .args(["-C", "target-feature=+crt-static", "-o"])
        .args([&program, &source])
        .output()
        .context("rustc")?;
    if !built.status.success() {
        bail!("the task's program does not compile: {}", String::from_utf8_lossy(&built.stderr));
    }
    std::fs::remove_file(source)?;
    Ok(program)
}

/// The time that the program printed, if it has.
pub fn stamp(text: &str) -> Option<SystemTime> {
    let line = text.lines().next().filter(|_| text.contains('\n'))?;
    Some(UNIX_EPOCH + Duration::from_nanos(line.parse().ok()?))
}

/// A task that runs a program with the machine's files, or with those of `image`.
pub fn task(id: &str, program: &str, arguments: &[&str], image: Option<&str>) -> TaskInfo {
    let argv = std::iter::once(program).chain(arguments.iter().copied()).map(str::to_owned).collect();
    let command = CommandInfo {
        shell: Some(false),
        value: Some(program.to_owned()),
        arguments: argv,
        ..Default::default()
    };
    TaskInfo {
        name: id.to_owned(),
        task_id: id.into(),
        agent_id: AGENT.into(),
        command: Some(command),
        container: image.map(container),
        resources: vec![scalar("cpus", 0.1), scalar("mem", 32.0)],
        ..Default::default()
    }
}

fn container(name: &str) -> ContainerInfo {
    let docker = image::Docker { name: name.to_owned(), ..Default::default() };
    let mut image = Image { docker: Some(docker), ..Default::default() };
    image.set_type(image::Type::Docker);
    let mut container = ContainerInfo::default();
    container.set_type(ContainerType::Mesos);
    container.mesos = Some(container_info::MesosInfo { image: Some(image) });
    container
}

fn scalar(name: &str, value: f64) -> Resource {
    let mut resource = Resource { name: name.to_owned(), ..Default::default() };
    resource.set_type(value::Type::Scalar);
    resource.scalar = Some(value::Scalar { value });
    resource
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_says_when_it_ran() {
        let folder = tempfile::tempdir().unwrap();
        let before = SystemTime::now();
        let said = Command::new(compile(folder.path()).unwrap()).output().unwrap();
        let said = stamp(&String::from_utf8(said.stdout).unwrap()).unwrap();
        assert!(before <= said && said <= SystemTime::now());
        assert_eq!((stamp("17"), stamp("x\n"), stamp("")), (None, None, None), "not yet, or something else");
    }
}
