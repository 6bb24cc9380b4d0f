//! What the agent tells of its containers: Mesos' statistics, DC/OS' metrics, Prometheus' text, and why a task ran out of memory.

use plenum_api::mesos::task_status::Reason;
use plenum_api::mesos::{ContainerInfo, NetworkInfo, Resource, TaskState, container_info, value};

use crate::master::task;
use crate::world::{World, is_root};

/// The value of a series that has all these labels.
fn series(page: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let line = page.lines().find(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
            && labels.iter().all(|label| line.contains(label))
    });
    line?.rsplit_once(' ')?.1.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_measured_in_every_form() {
    if !is_root() {
        return;
    }
    let mut world = World::new().await;
    world.master.register().await;
    let mut info = task("busy", "sleep 600 & while :; do :; done");
    let mut disk = Resource { name: "disk".to_owned(), ..Default::default() };
    disk.scalar = Some(value::Scalar { value: 32.0 });
    info.resources.push(disk);
    // A bridge of its own: there is traffic to be counted.
    let mut container = ContainerInfo::default();
    container.set_type(container_info::Type::Mesos);
    container.network_infos =
        vec![NetworkInfo { name: Some("mesos-bridge".to_owned()), ..Default::default() }];
    info.container = Some(container);
    world.master.run(info);
    let running = world.master.expect("busy", TaskState::TaskRunning).await;
    let id = running.container_status.unwrap().container_id.unwrap().value;
    // Throttled, and its disk measured, both of which take a moment.
    let mut statistics = serde_json::Value::Null;
    for _ in 0..100 {
        statistics = world.get_json("/monitor/statistics.json").await[0]["statistics"].clone();
        if statistics["disk_used_bytes"].is_u64() && statistics["cpus_nr_throttled"].as_u64() > Some(1) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    for name in [
        "timestamp",
        "processes",
        "threads",
        "cpus_user_time_secs",
        "cpus_system_time_secs",
        "cpus_nr_periods",
        "cpus_nr_throttled",
        "cpus_throttled_time_secs",
        "mem_total_bytes",
        "mem_rss_bytes",
        "mem_cache_bytes",
        "mem_mapped_file_bytes",
        "mem_swap_bytes",
        "mem_unevictable_bytes",
        "mem_peak_bytes",
        "mem_oom_kills",
        "net_rx_bytes",
        "net_tx_packets",
        "disk_used_bytes",
    ] {
        assert!(statistics[name].is_number(), "{name}: {statistics}");
    }
    assert_eq!(statistics["mem_limit_bytes"], 64 << 20);
    assert_eq!(statistics["disk_limit_bytes"], 32 << 20);
    assert_eq!(statistics["processes"], 3, "init, the shell and what sleeps");
    if std::path::Path::new("/proc/pressure/cpu").exists() {
        assert!(statistics["pressure"]["cpu"]["some"]["total_secs"].is_number(), "{statistics}");
    }
    let metrics = world.get_json(&format!("/system/v1/metrics/v0/containers/{id}")).await;
    let point = |name: &str| {
        let all = metrics["datapoints"].as_array().unwrap();
        all.iter().find(|point| point["name"] == name).map(|point| point["value"].as_f64().unwrap())
    };
    assert_eq!(metrics["dimensions"]["task_id"], "busy");
    assert!(point("cpus.throttled.time").unwrap() > 0.0 && point("net.tx.bytes").is_some(), "{metrics}");
    let node = world.get_json("/system/v1/metrics/v0/node").await.to_string();
    assert_eq!(node.contains("pressure.io.full"), std::path::Path::new("/proc/pressure/io").exists());
    assert_eq!(world.get_json("/metrics/snapshot").await["slave/cpus_used"], 0.2);
    for path in ["/metrics", "/system/v1/metrics/prometheus", "/slave(1)/metrics"] {
        let (status, page) = world.get(path).await;
        assert_eq!(status, 200);
        let page = String::from_utf8(page).unwrap();
        let own = [
            format!("container_id=\"{id}\""),
            "task_id=\"busy\"".to_owned(),
            "framework_id=\"F1\"".to_owned(),
        ];
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        for (name, least) in [
            ("plenum_container_info", 1.0),
            ("plenum_container_cpu_user_seconds_total", 0.01),
            ("plenum_container_cpu_throttled_periods_total", 1.0),
            ("plenum_container_memory_limit_bytes", 67_108_864.0),
            ("plenum_container_processes", 3.0),
            ("plenum_container_disk_limit_bytes", 33_554_432.0),
            ("plenum_container_network_transmit_bytes_total", 0.0),
        ] {
            assert!(series(&page, name, &own).unwrap() >= least, "{path} {name}\n{page}");
        }
        for name in ["plenum_agent_tasks_running", "plenum_agent_cpus_used", "plenum_node_load1"] {
            assert!(series(&page, name, &[]).is_some(), "{name}\n{page}");
        }
        // Each family is said once, before its first series.
        let heads: Vec<&str> = page.lines().filter(|line| line.starts_with("# TYPE ")).collect();
        assert_eq!(heads.iter().collect::<std::collections::BTreeSet<_>>().len(), heads.len());
    }
    assert_eq!(world.get("/system/v1/metrics/v0/containers/none").await.0, 404);
    world.master.kill("busy", std::time::Duration::ZERO);
    world.master.expect("busy", TaskState::TaskKilled).await;
    let (_, page) = world.get("/metrics").await;
    assert!(!String::from_utf8(page).unwrap().contains("task_id=\"busy\""), "its series end with it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_runs_out_of_memory_learns_what_ran() {
    if !is_root() {
        return;
    }
    let mut world = World::new().await;
    world.master.register().await;
    world.master.run(task("big", "sleep 600 & exec tail /dev/zero"));
    world.master.expect("big", TaskState::TaskRunning).await;
    let failed = world.master.expect("big", TaskState::TaskFailed).await;
    assert_eq!(failed.reason(), Reason::ContainerLimitationMemory);
    let message = failed.message.unwrap();
    assert!(message.starts_with("Memory limit exceeded: Requested: 64.0MB Maximum Used: 6"), "{message}");
    assert!(message.ends_with("; Command terminated with signal Killed"), "{message}");
    // Not every machine lets its log be read, and the kernel does not write each report down.
    if message.contains("running then: ") {
        assert!(message.contains("running then: tail 6") && message.contains("sleep "), "{message}");
    }
}
