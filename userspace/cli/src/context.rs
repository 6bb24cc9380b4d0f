//! Which cluster a verb talks to, and as whom: the context that login left behind, or the instance on this machine.
//! Contexts are `<configuration>/plenum/contexts/<instance>.json`, readable by their owner only.

use std::path::{Path, PathBuf};

use plenum_base::files;
use plenum_base::places::{Bases, Instance};
use serde::{Deserialize, Serialize};

use crate::api::{Session, checked_url};
use crate::error::{CliError, Result};

/// A cluster and who we are there.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// The gateway's address.
    pub url: String,
    /// The cluster's CA certificate (PEM); empty for plain HTTP.
    #[serde(default)]
    pub ca: String,
    /// The token; none after logout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The account's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("url", &self.url).field("user", &self.user).finish_non_exhaustive()
    }
}

/// The folders in which contexts and the instances of this machine are found.
#[derive(Debug, Clone)]
pub struct Contexts {
    folder: PathBuf,
    bases: Bases,
}

impl Contexts {
    /// This user's: `$XDG_CONFIG_HOME/plenum/contexts`, or `~/.config/plenum/contexts`. `PLENUM_CONFIG_BASE` moves the first part.
    #[must_use]
    pub fn of_this_user() -> Self {
        let env = |key: &str| std::env::var_os(key).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = env("PLENUM_CONFIG_BASE")
            .or_else(|| env("XDG_CONFIG_HOME").map(|path| path.join("plenum")))
            .or_else(|| env("HOME").map(|path| path.join(".config/plenum")))
            .unwrap_or_else(|| PathBuf::from("/root/.config/plenum"));
        Self { folder: base.join("contexts"), bases: Bases::of_this_user() }
    }

    /// Those in other folders.
    #[must_use]
    pub fn new(folder: PathBuf, bases: Bases) -> Self {
        Self { folder, bases }
    }

    /// The file of an instance's context.
    #[must_use]
    pub fn path(&self, instance: &Instance) -> PathBuf {
        self.folder.join(format!("{instance}.json"))
    }

    /// The context of an instance, if there is one.
    ///
    /// # Errors
    /// [`CliError::Local`] where the file cannot be read.
    pub fn load(&self, instance: &Instance) -> Result<Option<Context>> {
        let path = self.path(instance);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(trouble(&path, &error)),
        };
        // The parser's words may quote the token, so they are not shown.
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|_| CliError::Local(format!("{} is damaged; run `plenum login` again", path.display())))
    }

    /// Remembers a context: 0600, in a folder of 0700.
    ///
    /// # Errors
    /// [`CliError::Local`].
    pub fn save(&self, instance: &Instance, context: &Context) -> Result<()> {
        let path = self.path(instance);
        files::private_dir(&self.folder).map_err(|error| trouble(&self.folder, &error))?;
        let text = serde_json::to_vec_pretty(context).map_err(|error| CliError::Local(error.to_string()))?;
        files::replace(&path, &text, files::SECRET).map_err(|error| trouble(&path, &error))
    }

    /// Forgets a context; true where there was one.
    ///
    /// # Errors
    /// [`CliError::Local`].
    pub fn forget(&self, instance: &Instance) -> Result<bool> {
        let path = self.path(instance);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(trouble(&path, &error)),
        }
    }

    /// The instance on this machine, where it was started by this user: its gateway and CA, without a token.
    #[must_use]
    pub fn local(&self, instance: &Instance) -> Option<Context> {
        let known = self.bases.instances().ok()?;
        let (_, number) = known.into_iter().find(|(name, _)| name == instance)?;
        let places = self.bases.places(instance.clone(), number);
        let ca = std::fs::read_to_string(places.ca()).ok()?;
        let url = of_fleet(&places.state).unwrap_or_else(|| format!("https://{}", places.gateway_tls()));
        Some(Context { url, ca, token: None, user: None })
    }

    /// What is known of the cluster that is meant: the context's, or the instance on this machine. With `url`, only what is known of that
    /// address.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn known(&self, instance: &Instance, url: Option<&str>) -> Result<Option<Context>> {
        let saved = self.load(instance)?;
        let Some(url) = url else {
            return Ok(saved.or_else(|| self.local(instance)));
        };
        let url = checked_url(url)?;
        let same = |context: &Context| checked_url(&context.url).is_ok_and(|known| known == url);
        Ok(saved.filter(same).or_else(|| self.local(instance).filter(same)))
    }

    /// A session with the cluster that is meant.
    ///
    /// # Errors
    /// [`CliError::NotLoggedIn`] where nothing is known of it.
    pub fn session(&self, instance: &Instance, url: Option<&str>) -> Result<Session> {
        if let Some(context) = self.known(instance, url)? {
            return Session::new(instance.as_str(), &context.url, &context.ca, context.token.as_deref());
        }
        match url {
            Some(url) if checked_url(url)?.starts_with("http://") => {
                Session::new(instance.as_str(), url, "", None)
            }
            Some(url) => Err(CliError::NotLoggedIn(format!(
                "nothing is known of {url}; run `plenum login --instance {instance} --url {url}`"
            ))),
            None => Err(CliError::NotLoggedIn(format!(
                "no cluster is known as {instance}; start one here with `plenum up --instance {instance}`, or log in to one with \
                 `plenum login --instance {instance} --url https://HOST`"
            ))),
        }
    }
}

/// The gateway of the fleet that this machine is a host of: its own on a master, else the first master's.
fn of_fleet(state: &Path) -> Option<String> {
    let bytes = std::fs::read(state.join("host.json")).ok()?;
    let manifest: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    let spec = manifest.get("spec")?;
    let master = spec.get("kinds")?.as_array()?.iter().any(|kind| kind == "master");
    let address = if master { spec.get("address")? } else { spec.pointer("/masters/0")? };
    let address: std::net::IpAddr = address.as_str()?.parse().ok()?;
    // Without the port, as the installer and people write it.
    Some(if address.is_ipv6() { format!("https://[{address}]") } else { format!("https://{address}") })
}

fn trouble(path: &Path, error: &std::io::Error) -> CliError {
    CliError::Local(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn contexts(dir: &Path) -> Contexts {
        let bases = Bases { state: dir.join("s"), run: dir.join("r"), root: true };
        Contexts::new(dir.join("contexts"), bases)
    }

    #[test]
    fn a_host_of_a_fleet_knows_a_gateway() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(of_fleet(dir.path()), None, "a single machine");
        for (spec, gateway) in [
            (
                r#"{"kinds":["master","agent"],"address":"10.0.0.1","masters":["10.0.0.9"]}"#,
                "https://10.0.0.1",
            ),
            (r#"{"kinds":["agent"],"address":"10.0.0.4","masters":["10.0.0.9"]}"#, "https://10.0.0.9"),
            (r#"{"kinds":["master"],"address":"fd00::1","masters":[]}"#, "https://[fd00::1]"),
        ] {
            std::fs::write(dir.path().join("host.json"), format!(r#"{{"spec":{spec}}}"#)).unwrap();
            assert_eq!(of_fleet(dir.path()).as_deref(), Some(gateway));
        }
    }

    #[test]
    fn contexts_are_private_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let contexts = contexts(dir.path());
        let instance: Instance = "lab".parse().unwrap();
        assert_eq!(contexts.load(&instance).unwrap(), None);
        let context = Context {
            url: "https://h".into(),
            ca: "PEM".into(),
            token: Some("t0ken".into()),
            user: Some("ann".into()),
        };
        contexts.save(&instance, &context).unwrap();
        assert_eq!(contexts.load(&instance).unwrap(), Some(context.clone()));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&contexts.path(&instance)), 0o600);
        assert_eq!(mode(&contexts.folder), 0o700);
        assert!(!format!("{context:?}").contains("t0ken"));
        std::fs::write(contexts.path(&instance), "{\"token\": \"t0ken\"").unwrap();
        let error = contexts.load(&instance).unwrap_err().to_string();
        assert!(error.contains("damaged") && !error.contains("t0ken"), "{error}");
        assert!(contexts.forget(&instance).unwrap());
        assert!(!contexts.forget(&instance).unwrap());
    }

    #[test]
    fn the_instance_on_this_machine_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let contexts = contexts(dir.path());
        let instance: Instance = "b".parse().unwrap();
        assert!(matches!(contexts.session(&instance, None), Err(CliError::NotLoggedIn(_))));
        let places = contexts.bases.open(&instance).unwrap();
        places.create().unwrap();
        std::fs::write(places.ca(), "CA").unwrap();
        let local = contexts.known(&instance, None).unwrap().unwrap();
        assert_eq!((local.url.as_str(), local.ca.as_str()), ("https://127.88.1.1:443", "CA"));
        assert!(contexts.known(&instance, Some("https://127.88.1.1:443/")).unwrap().is_some());
        assert!(contexts.known(&instance, Some("https://other")).unwrap().is_none());
        assert!(matches!(contexts.session(&instance, Some("https://other")), Err(CliError::NotLoggedIn(_))));
        contexts.session(&instance, Some("http://127.0.0.1:1")).unwrap();
    }
}
