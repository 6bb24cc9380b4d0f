//! Volumes of other people's drivers: mounted by their plugins for a container, and given back when it has ended.
//!
//! What is asked of a plugin is written down before, a file a container, so that an agent that was killed in between leads to a mount that is
//! undone, not to one that nobody knows. A volume itself is never removed: it is data.

mod plugin;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub(crate) use plugin::is_name;
use plugin::{Address, Fault, ask};

use crate::config::Config;

/// For a plugin to answer a question that does nothing.
const SHORT: Duration = Duration::from_secs(20);
/// First and longest wait before a volume is given back again.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(300)];

/// A volume as a task names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DriverVolume {
    pub driver: String,
    pub name: String,
    pub options: BTreeMap<String, String>,
}

/// What was asked of plugins for one container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    volumes: Vec<Asked>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Asked {
    driver: String,
    name: String,
    /// Where it is; nothing: it is not known whether it was mounted.
    mountpoint: Option<PathBuf>,
}

/// The door to all drivers.
#[derive(Debug, Clone)]
pub(crate) struct Drivers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    allowed: Vec<String>,
    plugins: Vec<PathBuf>,
    deadline: Duration,
    /// The records.
    folder: PathBuf,
    /// The same in memory, of containers that something was asked for.
    known: Mutex<BTreeMap<String, Record>>,
}

impl Drivers {
    /// Reads no record: [`Drivers::found`] does.
    ///
    /// # Errors
    /// About the folder.
    pub fn open(config: &Config, work_dir: &Path) -> Result<Self, String> {
        let folder = work_dir.join("volume_drivers");
        plenum_base::files::private_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Self(Arc::new(Inner {
            allowed: config.volume_drivers.clone(),
            plugins: config.volume_plugins.clone(),
            deadline: Duration::from_secs(config.volume_driver_timeout.max(1)),
            folder,
            known: Mutex::default(),
        })))
    }

    /// Containers of an earlier life.
    pub fn found(&self) -> Vec<String> {
        let mut known = self.0.known();
        for entry in std::fs::read_dir(&self.0.folder).into_iter().flatten().flatten() {
            let Ok(container) = entry.file_name().into_string() else { continue };
            // Without its content nobody knows what to give back; a half of one is never seen.
            match std::fs::read(entry.path()).ok().and_then(|text| serde_json::from_slice(&text).ok()) {
                Some(record) => {
                    known.insert(container, record);
                }
                None => tracing::warn!(container, "what was asked of volume drivers for it cannot be read"),
            }
        }
        known.keys().cloned().collect()
    }

    /// Mounts a container's volumes. Dropping the future leaves what [`Drivers::release`] undoes.
    ///
    /// # Errors
    /// A sentence with the driver's name.
    pub async fn mount(&self, container: &str, volumes: &[&DriverVolume]) -> Result<(), String> {
        for volume in volumes {
            let refused = |words: String| format!("the volume driver {}: {words}", volume.driver);
            self.allowed(&volume.driver)?;
            // One mount does for several places.
            if self.mountpoint(container, volume).is_none() {
                let address = plugin::find(&self.0.plugins, &volume.driver).map_err(refused)?;
                self.0.note(container, volume, None).map_err(refused)?;
                let at = self.0.mount_one(&address, container, volume).await;
                let at = at.map_err(|fault| refused(fault.words()))?;
                self.0.note(container, volume, Some(at)).map_err(refused)?;
            }
        }
        Ok(())
    }

    /// Where a volume is that was mounted for the container.
    pub fn mountpoint(&self, container: &str, volume: &DriverVolume) -> Option<PathBuf> {
        let known = self.0.known();
        let of = known.get(container)?.volumes.iter();
        of.filter(|asked| asked.driver == volume.driver && asked.name == volume.name)
            .find_map(|asked| asked.mountpoint.clone())
    }

    /// Gives back what was mounted for a container, in the background and for as long as it takes.
    pub fn release(&self, container: &str) {
        if !self.0.known().contains_key(container) {
            return;
        }
        let (inner, container) = (self.0.clone(), container.to_owned());
        tokio::spawn(async move {
            let mut pause = RETRY[0];
            while !inner.give_back(&container).await {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY[1]);
            }
        });
    }

    fn allowed(&self, driver: &str) -> Result<(), String> {
        allowed(&self.0.allowed, driver)
    }
}

/// Whether the operator lets tasks use a driver.
pub(crate) fn allowed(drivers: &[String], driver: &str) -> Result<(), String> {
    if drivers.iter().any(|one| one == driver) {
        return Ok(());
    }
    Err(format!(
        "the volume driver '{driver}' is not allowed on this agent; let the operator add it to `agent.volume_drivers`"
    ))
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Record>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down that a volume is asked for, or where it is.
    fn note(
        &self,
        container: &str,
        volume: &DriverVolume,
        mountpoint: Option<PathBuf>,
    ) -> Result<(), String> {
        let mut known = self.known();
        let record = known.entry(container.to_owned()).or_default();
        record.volumes.retain(|asked| asked.driver != volume.driver || asked.name != volume.name);
        let (driver, name) = (volume.driver.clone(), volume.name.clone());
        record.volumes.push(Asked { driver, name, mountpoint });
        self.write(container, record)
    }

    fn write(&self, container: &str, record: &Record) -> Result<(), String> {
        let path = self.folder.join(container);
        let text = serde_json::to_vec(record).map_err(|error| error.to_string())?;
        plenum_base::files::replace(&path, &text, 0o600)
            .map_err(|error| format!("{}: {error}", path.display()))
    }

    /// As an engine does it: a volume that is not there is made, then mounted for the container.
    async fn mount_one(
        &self,
        address: &Address,
        container: &str,
        volume: &DriverVolume,
    ) -> Result<PathBuf, Fault> {
        let named = json!({ "Name": volume.name });
        match ask(address, "VolumeDriver.Get", &named, SHORT).await {
            Ok(_) => {}
            Err(Fault::Away(words)) => return Err(Fault::Away(words)),
            Err(Fault::Refused(_)) => {
                let create = json!({ "Name": volume.name, "Opts": volume.options });
                ask(address, "VolumeDriver.Create", &create, self.deadline).await?;
            }
        }
        let mount = json!({ "Name": volume.name, "ID": container });
        let mut said = ask(address, "VolumeDriver.Mount", &mount, self.deadline).await?;
        let at = |said: &Value| said.get("Mountpoint").and_then(Value::as_str).unwrap_or_default().to_owned();
        if at(&said).is_empty() {
            said = ask(address, "VolumeDriver.Path", &named, SHORT).await?;
        }
        let at = PathBuf::from(at(&said));
        let plain = at.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if !at.is_absolute() || !plain || at.parent().is_none() {
            return Err(Fault::Refused(format!("it gave '{}' as the place of the volume", at.display())));
        }
        if !tokio::fs::metadata(&at).await.is_ok_and(|found| found.is_dir()) {
            let words = format!("the volume is to be at {}, where no folder is", at.display());
            return Err(Fault::Refused(words));
        }
        Ok(at)
    }

    /// True when nothing is left to be given back.
    async fn give_back(&self, container: &str) -> bool {
        let volumes = self.known().get(container).map(|record| record.volumes.clone()).unwrap_or_default();
        for asked in volumes {
            match self.unmount(container, &asked).await {
                Ok(()) => self.forget(container, &asked),
                Err(error) => {
                    let (driver, volume) = (&asked.driver, &asked.name);
                    tracing::warn!(
                        container,
                        driver,
                        volume,
                        error,
                        "a volume is not given back yet; it is tried again"
                    );
                }
            }
        }
        let mut known = self.known();
        let done = known.get(container).is_none_or(|record| record.volumes.is_empty());
        if done {
            known.remove(container);
            let _ = std::fs::remove_file(self.folder.join(container));
        }
        done
    }

    async fn unmount(&self, container: &str, asked: &Asked) -> Result<(), String> {
        let address = plugin::find(&self.plugins, &asked.driver)?;
        let question = json!({ "Name": asked.name, "ID": container });
        let refused = match ask(&address, "VolumeDriver.Unmount", &question, self.deadline).await {
            Ok(_) => return Ok(()),
            Err(Fault::Away(words)) => return Err(words),
            Err(Fault::Refused(words)) => words,
        };
        // It was never mounted, or the plugin knows it no more: nothing is left to be done.
        let named = json!({ "Name": asked.name });
        let gone = matches!(ask(&address, "VolumeDriver.Get", &named, SHORT).await, Err(Fault::Refused(_)));
        if gone || asked.mountpoint.is_none() { Ok(()) } else { Err(refused) }
    }

    fn forget(&self, container: &str, asked: &Asked) {
        let mut known = self.known();
        let Some(record) = known.get_mut(container) else { return };
        record.volumes.retain(|one| one != asked);
        if let Err(error) = self.write(container, record) {
            tracing::warn!(container, error, "what was given back to a volume driver is not noted");
        }
    }
}

#[cfg(test)]
mod tests;
