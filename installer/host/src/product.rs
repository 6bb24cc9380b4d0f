//! What this crate needs of the roles without knowing them: the program that holds them all provides it.

use plenum_base::places::Role;

use crate::layout::Host;

/// What the roles provide. Errors are sentences.
pub trait Product {
    /// The text of a role's file on this host.
    ///
    /// # Errors
    /// What is wrong with the overrides in the spec, all at once.
    fn settings(&self, host: &Host, role: Role) -> Result<String, String>;

    /// Makes the authority, the certificates of the host's roles, the first account and the shared settings, in files. Does what is left
    /// to do when it is called again.
    ///
    /// # Errors
    /// Why it cannot.
    fn bootstrap(&self, host: &Host, user: &str, password: &str) -> Result<(), String>;

    /// Whether control roles have state in files of their own that is to be on etcd.
    fn has_embedded(&self, host: &Host) -> bool;

    /// Carries that state over; the roles do not run, etcd does. Does what is left to do when it is called again.
    ///
    /// # Errors
    /// Why it cannot.
    fn carry_over(&self, host: &Host) -> Result<(), String>;

    /// Whether this host's member of etcd votes; a sentence about what it does where it does not yet.
    ///
    /// # Errors
    /// When it does not answer.
    fn votes(&self, host: &Host) -> Result<Option<String>, String>;

    /// Removes what the roles put into the Linux kernel: tables, addresses, routes.
    ///
    /// # Errors
    /// Why it cannot.
    fn remove_network(&self, host: &Host) -> Result<(), String>;
}
