//! The table that shows how each figure grows with the number of agents.

/// What was measured at one number of agents.
pub struct Row {
    /// Agents.
    pub agents: u32,
    /// Live tasks at the first measurement of memory.
    pub first: usize,
    /// Live tasks at the last one.
    pub last: usize,
    /// Tasks a second, RUNNING and acknowledged.
    pub throughput: f64,
    /// Latency p50 and p99 at a fixed rate, in ms.
    pub paced: (f64, f64),
    /// Latency p50 and p99 with as many in flight as the framework allows, in ms.
    pub full: (f64, f64),
    /// Processor time of the master for a task, in µs.
    pub master_cpu: f64,
    /// Of all simulated agents.
    pub agents_cpu: f64,
    /// Of the framework.
    pub framework_cpu: f64,
    /// Memory of the master for an idle agent, in KiB.
    pub agent_kib: f64,
    /// Of that, what is in use on the heap.
    pub agent_heap_kib: f64,
    /// Memory of the master for a live task, in KiB.
    pub task_kib: f64,
    /// The same of what is in use on the heap.
    pub task_heap_kib: f64,
    /// Agents registered a second.
    pub registrations: f64,
}

/// A column's heading and its value.
type Column = (&'static str, fn(&Row) -> f64);

const COLUMNS: [Column; 10] = [
    ("tasks/s", |r| r.throughput),
    ("p50 ms", |r| r.paced.0),
    ("p99 ms", |r| r.paced.1),
    ("p50 full", |r| r.full.0),
    ("p99 full", |r| r.full.1),
    ("µs/task", |r| r.master_cpu),
    ("KiB/agent", |r| r.agent_kib),
    ("KiB/task", |r| r.task_kib),
    ("heap/task", |r| r.task_heap_kib),
    ("agents/s", |r| r.registrations),
];

/// Prints one line a size, and between sizes by which factor each figure has grown.
pub fn print(rows: &[Row]) {
    print!("{}", table(rows));
}

fn table(rows: &[Row]) -> String {
    let mut text = format!("{:>16}", "agents");
    for (name, _) in COLUMNS {
        text += &format!("{name:>11}");
    }
    text.push('\n');
    let mut before: Option<&Row> = None;
    for row in rows {
        if let Some(before) = before {
            text += &format!("{:>16}", format!("×{:.0}", f64::from(row.agents) / f64::from(before.agents)));
            for (_, value) in COLUMNS {
                let (old, new) = (value(before), value(row));
                let factor = if old > 0.0 { format!("×{:.2}", new / old) } else { "-".into() };
                text += &format!("{factor:>11}");
            }
            text.push('\n');
        }
        text += &format!("{:>16}", row.agents);
        for (_, value) in COLUMNS {
            text += &format!("{:>11.1}", value(row));
        }
        text.push('\n');
        before = Some(row);
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_between_the_sizes() {
        let row = |agents, throughput| Row {
            agents,
            first: 1,
            last: 2,
            throughput,
            paced: (1.0, 2.0),
            full: (0.0, 2.0),
            master_cpu: 1.0,
            agents_cpu: 1.0,
            framework_cpu: 1.0,
            agent_kib: 1.0,
            agent_heap_kib: 1.0,
            task_kib: 1.0,
            task_heap_kib: 1.0,
            registrations: 1.0,
        };
        let text = table(&[row(100, 3_000.0), row(1_000, 1_500.0)]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1][..2], ["100", "3000.0"]);
        assert_eq!(lines[2][..5], ["×10", "×0.50", "×1.00", "×1.00", "-"]);
        assert_eq!(lines[3][..2], ["1000", "1500.0"]);
    }
}
