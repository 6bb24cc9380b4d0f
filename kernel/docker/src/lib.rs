//! The Docker engine as a second runtime: containers by the engine's API instead of by our own shim.
//!
//! [`DockerSpec`] is what a container is to be, [`translate`] makes one from a task as Mesos describes it, and
//! [`parameters`] holds the options of `docker run` that a task may give.

pub mod body;
pub mod credentials;
pub mod parameters;
pub mod reference;
pub mod spec;
pub mod translate;

pub use spec::{
    Dns, DockerLimits, DockerNetwork, DockerSpec, DockerVolume, ImageWish, PortMapping, SpecFault,
    VolumeSource,
};
