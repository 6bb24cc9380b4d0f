//! The names of everything that an instance has on a host: units, slices, the user, folders. Nothing else in this crate invents one.

use std::path::PathBuf;

use plenum_base::places::{Bases, Instance, Places, Role};

/// Where units are written.
pub const UNITS: &str = "/etc/systemd/system";
/// Where programs are.
pub const PROGRAMS: &str = "/opt/plenum";
/// The program that people call.
pub const LINK: &str = "/usr/local/bin/plenum";
/// The system user of roles that need no root.
pub const USER: &str = "plenum";

/// Where every instance on a fleet's host is, whoever asks.
#[must_use]
pub fn bases() -> Bases {
    Bases { state: "/var/lib/plenum".into(), run: "/run/plenum".into(), root: true }
}

/// The names of one instance.
#[derive(Debug, Clone)]
pub struct Names {
    /// The instance.
    pub instance: Instance,
    /// Its number on this host: of the addresses that hosts do not share, such as that of DNS for containers.
    pub number: u8,
    prefix: String,
    slice: String,
}

impl Names {
    /// The names of `instance`: `plenum-…`, of others than the default one `plenum-<instance>-…`. Its number is looked up in the host's table.
    #[must_use]
    pub fn of(instance: &Instance) -> Self {
        let default = *instance == Instance::default();
        let prefix = if default { "plenum".to_owned() } else { format!("plenum-{instance}") };
        // In a slice's name each dash is a level: an instance is one level, whatever its name.
        let level = instance.as_str().replace('-', "_");
        let slice = if default { "plenum".to_owned() } else { format!("plenum-{level}") };
        let number = bases().find(instance).ok().flatten().map_or(0, |places| places.number);
        Self { instance: instance.clone(), number, prefix, slice }
    }

    /// `plenum-<role>.service`.
    #[must_use]
    pub fn service(&self, role: Role) -> String {
        format!("{}-{role}.service", self.prefix)
    }

    /// The socket unit of a role's socket `name`; the one called `http` has the role's name alone.
    #[must_use]
    pub fn socket(&self, role: Role, name: &str) -> String {
        match name {
            "http" => format!("{}-{role}.socket", self.prefix),
            name => format!("{}-{role}-{name}.socket", self.prefix),
        }
    }

    /// Everything at once.
    #[must_use]
    pub fn target(&self) -> String {
        format!("{}.target", self.prefix)
    }

    /// The slice of the roles.
    #[must_use]
    pub fn slice(&self) -> String {
        format!("{}.slice", self.slice)
    }

    /// The slice of tasks.
    #[must_use]
    pub fn tasks_slice(&self) -> String {
        format!("{}-tasks.slice", self.slice)
    }

    /// The unit that holds tasks' control groups: it has no process of its own, and outlives every role.
    #[must_use]
    pub fn tasks_service(&self) -> String {
        format!("{}-tasks.service", self.prefix)
    }

    /// The control group of [`Names::tasks_service`], below each hierarchy's mount.
    #[must_use]
    pub fn tasks_group(&self) -> String {
        let mut levels = vec!["plenum.slice".to_owned()];
        if self.slice != "plenum" {
            levels.push(self.slice());
        }
        levels.push(self.tasks_slice());
        levels.push(self.tasks_service());
        levels.join("/")
    }

    /// The file that makes the runtime folders at each boot.
    #[must_use]
    pub fn tmpfiles(&self) -> PathBuf {
        PathBuf::from(format!("/etc/tmpfiles.d/{}.conf", self.prefix))
    }

    /// The instance's places on a fleet's host, whoever asks.
    #[must_use]
    pub fn places(&self) -> Places {
        bases().places(self.instance.clone(), self.number)
    }

    /// The manifest of what was made here.
    #[must_use]
    pub fn manifest(&self) -> PathBuf {
        self.places().state.join("host.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_two_instances_differ() {
        let default = Names::of(&Instance::default());
        let other = Names::of(&"east-1".parse().unwrap());
        assert_eq!(default.service(Role::Master), "plenum-master.service");
        assert_eq!(default.socket(Role::Master, "agents"), "plenum-master-agents.socket");
        assert_eq!(default.tasks_group(), "plenum.slice/plenum-tasks.slice/plenum-tasks.service");
        assert_eq!(other.service(Role::Master), "plenum-east-1-master.service");
        assert_eq!(other.target(), "plenum-east-1.target");
        assert_eq!(
            other.tasks_group(),
            "plenum.slice/plenum-east_1.slice/plenum-east_1-tasks.slice/plenum-east-1-tasks.service"
        );
    }
}
