//! The measurement of the kernel at its smallest: three processes find each other, every task runs, the figures are written.
#![cfg(feature = "kernel")]

use std::process::Command;

#[test]
fn a_quick_run_writes_its_figures() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("figures.json");
    let output = Command::new(env!("CARGO_BIN_EXE_plenum-benchmarks"))
        .args(["kernel", "--quick", "--json"])
        .arg(&file)
        .output()
        .expect("started");
    let (said, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{said}\n{errors}");
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).expect("written")).expect("JSON");
    assert_eq!(json["bench"], "kernel");
    let figures = json["figures"].as_array().expect("figures");
    let value = |name: &str| {
        let figure = figures.iter().find(|figure| figure["name"] == name);
        figure.and_then(|figure| figure["value"].as_f64()).unwrap_or_else(|| panic!("{name} in {json}"))
    };
    for name in
        ["tasks", "master CPU per task", "memory per idle agent", "latency p99, paced", "registrations"]
    {
        assert!(value(&format!("{name} at 100 agents")) > 0.0, "{name}");
    }
    assert!(said.contains("tasks at 100 agents"), "{said}");
}
