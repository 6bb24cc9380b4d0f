//! Naming the step that failed: a step, the kernel's error number, and what it concerned.

use crate::wire::Failed;
use nix::errno::Errno;

/// The outcome of a set-up step.
pub type Step<T> = Result<T, Failed>;

/// A failure with an error number.
pub fn failed(step: &str, subject: impl AsRef<[u8]>, errno: Errno) -> Failed {
    Failed { step: step.into(), errno: errno as i32, subject: subject.as_ref().to_vec() }
}

/// A failure that is not the kernel's.
pub fn refused(step: &str, subject: impl AsRef<[u8]>) -> Failed {
    Failed { step: step.into(), errno: 0, subject: subject.as_ref().to_vec() }
}

/// Gives an error of the kernel its step and subject.
pub trait At<T> {
    /// See the trait.
    fn at(self, step: &str, subject: impl AsRef<[u8]>) -> Step<T>;
}

impl<T> At<T> for nix::Result<T> {
    fn at(self, step: &str, subject: impl AsRef<[u8]>) -> Step<T> {
        self.map_err(|errno| failed(step, subject, errno))
    }
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, step: &str, subject: impl AsRef<[u8]>) -> Step<T> {
        self.map_err(|error| failed(step, subject, Errno::from_raw(error.raw_os_error().unwrap_or(0))))
    }
}
