//! How much of a task's output is kept: what the operator says, and what the task asks for with the variables of Mesos' logger for logrotate
//! (`CONTAINER_LOGGER_MAX_STDOUT_SIZE`, `…_LOGROTATE_STDOUT_OPTIONS`, and the same for STDERR). Pure.

use std::collections::BTreeMap;

use plenum_containers::LogBudget;

use crate::config::Config;

/// What a file has at least, as in Mesos: a page.
const LEAST: u64 = 4096;
/// A file's bytes where the operator keeps everything and a task says only how many files, as in Mesos.
const USUAL: u64 = 10 << 20;

/// The budgets of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Budgets {
    /// Of standard output, and of standard error where that has none of its own.
    pub logs: Option<LogBudget>,
    /// Of standard error.
    pub error_logs: Option<LogBudget>,
}

/// Reads them from a command's own variables.
pub(crate) fn budgets(variables: &BTreeMap<String, String>, config: &Config) -> Result<Budgets, String> {
    let logs = config.log_budget();
    if config.log_task_bytes == 0 {
        return Ok(Budgets { logs, error_logs: None });
    }
    let stdout = stream(variables, "STDOUT", config)?;
    let stderr = stream(variables, "STDERR", config)?;
    Ok(match (stdout, stderr) {
        (Some(_), None) => Budgets { logs: stdout, error_logs: logs },
        (_, stderr) => Budgets { logs: stdout.or(logs), error_logs: stderr },
    })
}

fn stream(
    variables: &BTreeMap<String, String>,
    name: &str,
    config: &Config,
) -> Result<Option<LogBudget>, String> {
    let size_name = format!("CONTAINER_LOGGER_MAX_{name}_SIZE");
    let options_name = format!("CONTAINER_LOGGER_LOGROTATE_{name}_OPTIONS");
    let asked = |name: &str| variables.get(name).map(|text| text.trim()).filter(|text| !text.is_empty());
    let size = asked(&size_name).map(|text| {
        bytes(text).filter(|bytes| *bytes >= LEAST).ok_or_else(|| {
            format!("{size_name}={text}: give a size of at least {LEAST}B, such as 512KB, 10MB or 1GB")
        })
    });
    let rotated = asked(&options_name).map(|text| {
        rotated(text).map_err(|word| {
            format!(
                "{options_name}: 'rotate {word}' does not say how many full files to keep, such as 'rotate 9'"
            )
        })
    });
    let (size, rotated) = (size.transpose()?, rotated.transpose()?.flatten());
    if size.is_none() && rotated.is_none() {
        return Ok(None);
    }
    let usual = config.log_budget();
    let file_bytes = size.unwrap_or_else(|| usual.map_or(USUAL, |usual| usual.file_bytes));
    let files = rotated.map_or_else(|| config.log_files, |full| full.saturating_add(1));
    Ok(Some(bounded(LogBudget { file_bytes, files: files.clamp(1, 1000) }, config)))
}

/// Within the operator's bound: first fewer files, then a smaller one. What the operator gives everybody is nobody's excess.
fn bounded(asked: LogBudget, config: &Config) -> LogBudget {
    let given = config.log_budget().map_or(0, |usual| usual.file_bytes.saturating_mul(usual.files.into()));
    let most = config.log_task_bytes.max(given).max(LEAST);
    let file_bytes = asked.file_bytes.min(most);
    let files = u32::try_from(most / file_bytes).unwrap_or(u32::MAX).min(asked.files);
    LogBudget { file_bytes, files }
}

/// Mesos' sizes: whole numbers with B, KB, MB, GB or TB, of 1024 each; without a unit bytes.
fn bytes(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KB" => 10,
        "MB" => 20,
        "GB" => 30,
        "TB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The last `rotate N` of logrotate's options, which are lines. Others of its options mean nothing here.
fn rotated(options: &str) -> Result<Option<u32>, String> {
    let mut found = None;
    for line in options.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() == Some("rotate") {
            let word = words.next().unwrap_or_default();
            found = Some(word.parse().map_err(|_| word.to_owned())?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: &Config, variables: &[(&str, &str)]) -> Result<[Option<(u64, u32)>; 2], String> {
        let all =
            variables.iter().map(|(name, text)| (format!("CONTAINER_LOGGER_{name}"), (*text).to_owned()));
        let plain = |budget: Option<LogBudget>| budget.map(|budget| (budget.file_bytes, budget.files));
        budgets(&all.collect(), config).map(|found| [plain(found.logs), plain(found.error_logs)])
    }

    #[test]
    fn tasks_say_what_is_kept_of_each_stream() {
        let usual = Some((10 << 20, 5));
        for (variables, want) in [
            (vec![], [usual, None]),
            (vec![("LOGROTATE_STDOUT_OPTIONS", "compress")], [usual, None]),
            (vec![("MAX_STDOUT_SIZE", "2MB")], [Some((2 << 20, 5)), usual]),
            (vec![("MAX_STDERR_SIZE", "4096B")], [usual, Some((4096, 5))]),
            (
                vec![
                    ("MAX_STDOUT_SIZE", "8192"),
                    ("LOGROTATE_STDOUT_OPTIONS", "missingok\n  rotate 1\ncompress\nrotate 3"),
                    ("LOGROTATE_STDERR_OPTIONS", "rotate 0"),
                ],
                [Some((8192, 4)), Some((10 << 20, 1))],
            ),
            (
                vec![("MAX_STDOUT_SIZE", "10MB"), ("LOGROTATE_STDOUT_OPTIONS", "rotate 400")],
                [Some((10 << 20, 25)), usual],
            ),
            (vec![("MAX_STDOUT_SIZE", "1TB")], [Some((256 << 20, 1)), usual]),
        ] {
            assert_eq!(read(&Config::default(), &variables), Ok(want), "{variables:?}");
        }
    }

    #[test]
    fn what_the_operator_says_holds() {
        let mut config = Config { log_file_bytes: 0, ..Config::default() };
        assert_eq!(read(&config, &[]), Ok([None, None]));
        assert_eq!(
            read(&config, &[("LOGROTATE_STDERR_OPTIONS", "rotate 2")]),
            Ok([None, Some((10 << 20, 3))])
        );
        config.log_task_bytes = 0;
        assert_eq!(read(&config, &[("MAX_STDOUT_SIZE", "1MB")]), Ok([None, None]), "tasks have no say");
        config = Config { log_file_bytes: 1 << 30, log_task_bytes: 4096, ..Config::default() };
        assert_eq!(
            read(&config, &[("LOGROTATE_STDOUT_OPTIONS", "rotate 9")]),
            Ok([Some((1 << 30, 5)), Some((1 << 30, 5))]),
            "no less than everybody has"
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for (name, text) in [
            ("MAX_STDOUT_SIZE", "4095"),
            ("MAX_STDERR_SIZE", "1.5MB"),
            ("MAX_STDOUT_SIZE", "10 parsecs"),
            ("MAX_STDOUT_SIZE", "99999999TB"),
            ("LOGROTATE_STDOUT_OPTIONS", "rotate"),
            ("LOGROTATE_STDERR_OPTIONS", "rotate -1"),
        ] {
            let refusal = read(&Config::default(), &[(name, text)]).unwrap_err();
            assert!(refusal.contains(name), "{refusal}");
        }
    }
}
