//! Container images of a node: references, the registry client, the content store (blobs and unpacked layers), image configuration, pins and
//! collection. Knows nothing of containers or of the agent: it gives paths of layers and what the image asks for.

pub mod auth;
pub mod config;
pub mod digest;
pub mod error;
mod images;
pub mod manifest;
pub mod pins;
pub mod platform;
pub mod progress;
mod pull;
pub mod reference;
mod registry;
pub mod settings;
pub mod store;
pub mod unpack;
pub mod users;

pub use auth::Auth;
pub use config::ImageConfig;
pub use digest::Digest;
pub use error::ImageError;
pub use images::{Image, Images};
pub use pins::Pinned;
pub use platform::Platform;
pub use progress::{LayerProgress, Listener, Stage};
pub use reference::Reference;
pub use settings::Settings;
pub use store::collect::{Collected, Pressure};
pub use users::User;
