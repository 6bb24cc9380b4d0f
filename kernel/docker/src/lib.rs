//! The Docker engine as a second runtime: containers by the engine's API instead of by our own shim.
//!
//! [`DockerSpec`] is what a container is to be, [`translate`] makes one from a task as Mesos describes it, and
//! [`parameters`] holds the options of `docker run` that a task may give. [`DockerRuntime`] starts, watches and removes
//! containers, keeps their output in their sandboxes, and knows the engine's [`Health`]: every call has a deadline, and
//! an engine that is away holds up nothing but what needs it. [`Both`] is this runtime and the native one together.

mod attach;
pub mod body;
mod both;
mod config;
mod container;
pub mod credentials;
mod destroy;
mod disk;
mod engine;
mod exec;
mod follow;
mod hijack;
mod images;
mod inner;
pub mod journal;
mod kill;
mod launch;
mod measure;
mod output;
pub mod parameters;
mod probe;
mod pull;
pub mod reach;
mod record;
mod recover;
pub mod reference;
mod runtime;
pub mod spec;
pub mod translate;
mod watch;

pub use both::Both;
pub use config::DockerConfig;
pub use engine::{EngineError, Health};
pub use images::Pressure;
pub use pull::Progress;
pub use record::Written;
pub use runtime::DockerRuntime;
pub use spec::{
    Dns, DockerLimits, DockerNetwork, DockerSpec, DockerVolume, ImageWish, PortMapping, SpecFault,
    VolumeSource,
};
