//! Measurements at their smallest: their processes find each other, everything that is asked for happens, the figures are written.
#![cfg(feature = "kernel")]

use std::process::Command;

/// Runs one; what it said and its figures.
fn quick(name: &str) -> (String, serde_json::Value) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("figures.json");
    let output = Command::new(env!("CARGO_BIN_EXE_plenum-benchmarks"))
        .args([name, "--quick", "--json"])
        .arg(&file)
        .output()
        .expect("started");
    let (said, errors) =
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{errors}");
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).expect("written")).expect("JSON");
    assert_eq!(json["bench"], name);
    (said, json)
}

fn value(json: &serde_json::Value, name: &str) -> f64 {
    let figures = json["figures"].as_array().expect("figures");
    let figure = figures.iter().find(|figure| figure["name"] == name);
    figure.and_then(|figure| figure["value"].as_f64()).unwrap_or_else(|| panic!("{name} in {json}"))
}

#[test]
fn of_the_kernel() {
    let (said, json) = quick("kernel");
    for name in
        ["tasks", "master CPU per task", "memory per idle agent", "latency p99, paced", "registrations"]
    {
        assert!(value(&json, &format!("{name} at 100 agents")) > 0.0, "{name}");
    }
    assert!(said.contains("tasks at 100 agents"), "{said}");
}

#[test]
fn of_the_service_scheduler() {
    let (said, json) = quick("services");
    for name in [
        "one change planned, p99, 100 apps",
        "instances to healthy, 1 × 20 on 5 agents",
        "instances to healthy, 2 × 10 on 5 agents",
        "start to serving, 100 apps, 1000 instances",
        "leader's memory after 20 changes, 100 apps, 1000 instances",
        "events a listener saw",
    ] {
        assert!(value(&json, name) > 0.0, "{name}");
    }
    assert!(value(&json, "events that the least attentive of them missed") < 1.0);
    let times = value(&json, "times an event was encoded for 20 listeners");
    assert!((times - 1.0).abs() < 1e-9, "{times}");
    assert!(said.contains("memory of each of 20 listeners"), "{said}");
}
