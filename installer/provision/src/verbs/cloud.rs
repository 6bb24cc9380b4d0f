//! `plenum install cloud-init`: user data with which a machine of a cloud joins by itself.

use std::path::PathBuf;

use clap::Args;
use plenum_cli::screen::Screen;
use plenum_plan::spec::Kind;

use crate::error::{InstallError, Result};
use crate::gateway;
use crate::work::load;

/// Arguments of `plenum install cloud-init`.
#[derive(Args, Debug, Clone)]
pub struct CloudInit {
    /// The file that says what the cluster is; its masters are those that are joined
    #[arg(long, env = "PLENUM_CLUSTER_FILE", default_value = "cluster.yaml", value_name = "FILE")]
    pub config: PathBuf,
    /// What the machines become: agent or public
    #[arg(long, default_value = "agent")]
    pub role: Kind,
    /// How long the token is good: 90s, 30m, 1h, 7d
    #[arg(long, default_value = "1d", value_name = "TIME")]
    pub ttl: String,
    /// How many machines may join; 0: as many as want to
    #[arg(long, default_value_t = 0)]
    pub uses: u32,
    /// A token that is there already, in a file, instead of a new one
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Where the machines fetch this program from; without it, it must be in their image, in the PATH or at /usr/local/bin/plenum
    #[arg(long, value_name = "URL")]
    pub binary_url: Option<String>,
    /// SHA-256 of what is fetched, in hexadecimal; without it, this program's
    #[arg(long, value_name = "HEX", requires = "binary_url")]
    pub binary_sha256: Option<String>,
}

fn seconds(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

pub(crate) async fn cloud_init(cloud: &CloudInit, screen: &mut Screen) -> Result<()> {
    let (cluster, _) = load(&cloud.config, screen)?;
    if cloud.role == Kind::Master {
        return Err(InstallError::Usage(
            "a master's token is worth the cluster's keys, and user data is readable by many: add masters with `plenum node add`".to_owned(),
        ));
    }
    let token = match &cloud.token_file {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| InstallError::Usage(format!("{}: {error}", path.display())))?
            .trim()
            .to_owned(),
        None => {
            let ttl = seconds(&cloud.ttl).ok_or_else(|| {
                InstallError::Usage(format!("--ttl {}: write 90s, 30m, 1h or 7d", cloud.ttl))
            })?;
            gateway::mint(
                &cluster,
                &plenum_cli::context::Contexts::of_this_user(),
                cloud.role,
                ttl,
                cloud.uses,
            )
            .await?
        }
    };
    if !token.starts_with("plenum1.") || token.contains(char::is_whitespace) {
        return Err(InstallError::Usage("that is no join token".to_owned()));
    }
    let sound = |url: &String| {
        (url.starts_with("https://") || url.starts_with("http://")) && !url.contains(['\'', '\n', '\\'])
    };
    if !cloud.binary_url.as_ref().is_none_or(sound) {
        return Err(InstallError::Usage("--binary-url: write https://HOST/PATH".to_owned()));
    }
    let digest = match (&cloud.binary_url, &cloud.binary_sha256) {
        (None, _) => String::new(),
        (Some(_), Some(given)) if given.len() == 64 && given.bytes().all(|b| b.is_ascii_hexdigit()) => {
            given.to_ascii_lowercase()
        }
        (Some(_), Some(_)) => {
            return Err(InstallError::Usage("--binary-sha256: 64 hexadecimal digits".to_owned()));
        }
        (Some(_), None) => crate::payload::Payload::own()?.digest,
    };
    let masters: Vec<String> = cluster.masters().map(|master| master.address.to_string()).collect();
    let fetch = cloud.binary_url.as_deref().map(|url| (url, digest.as_str()));
    Ok(screen.print(&user_data(&token, &masters.join(" "), fetch))?)
}

/// The user data. The token goes to a file that only root reads, and away when it was used.
fn user_data(token: &str, masters: &str, fetch: Option<(&str, &str)>) -> String {
    let (program, fetch) = match fetch {
        None => ("plenum", String::new()),
        Some((url, digest)) => (
            "/var/lib/plenum-join/plenum",
            format!(
                "      curl -fsSL --retry 10 --retry-all-errors -o /var/lib/plenum-join/plenum '{url}'\n      \
                 echo '{digest}  /var/lib/plenum-join/plenum' | sha256sum -c --quiet\n      \
                 chmod 700 /var/lib/plenum-join/plenum\n"
            ),
        ),
    };
    format!(
        "#cloud-config\n\
         write_files:\n\
         - path: /var/lib/plenum-join/token\n  permissions: '0600'\n  content: {token}\n\
         - path: /var/lib/plenum-join/run\n  permissions: '0700'\n  content: |\n    \
         #!/bin/sh\n    \
         # Joins the cluster; tried again until it worked, as the masters may be away.\n    \
         export PATH=\"$PATH:/usr/local/bin\"\n    \
         umask 077\n    \
         n=0\n    \
         until (\n      set -e\n{fetch}      {program} join {masters} --token-file /var/lib/plenum-join/token\n    ); do\n      \
         n=$((n + 1)); [ $n -lt 60 ] || exit 1\n      sleep 10\n    done\n    \
         rm -rf /var/lib/plenum-join\n\
         runcmd:\n\
         - [/var/lib/plenum-join/run]\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_is_yaml_with_a_script_that_a_shell_takes() {
        for fetch in [None, Some(("https://files.example/plenum", "ab"))] {
            let text = user_data("plenum1.a.b.c", "10.0.0.1 10.0.0.2", fetch);
            let data: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
            assert_eq!(data.pointer("/write_files/0/content").unwrap(), "plenum1.a.b.c");
            assert_eq!(data.pointer("/write_files/0/permissions").unwrap(), "0600");
            let script = data.pointer("/write_files/1/content").unwrap().as_str().unwrap();
            assert!(
                script.contains("join 10.0.0.1 10.0.0.2 --token-file /var/lib/plenum-join/token"),
                "{script}"
            );
            assert!(!script.contains("plenum1."), "no token in arguments");
            assert_eq!(script.contains("sha256sum -c"), fetch.is_some());
            let mut sh = std::process::Command::new("sh");
            assert!(sh.arg("-n").arg("-c").arg(script).status().unwrap().success(), "{script}");
        }
        assert_eq!(
            (seconds("7d"), seconds("90s"), seconds("x"), seconds("")),
            (Some(604_800), Some(90), None, None)
        );
    }
}
