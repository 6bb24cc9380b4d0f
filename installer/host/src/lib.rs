//! What runs on a host of a fleet, as root and from the one binary (`docs/adr/0014`): what the machine is and has ([`facts`]), whether it
//! reaches its peers ([`check`]), making it what a spec says ([`apply`]), and taking all of that back ([`remove`]).

pub mod apply;
pub mod check;
pub mod enter;
pub mod events;
pub mod facts;
pub mod files;
pub mod layout;
pub mod lock;
pub mod manifest;
pub mod names;
pub mod product;
pub mod remove;
pub mod run;
pub mod status;
pub mod systemd;
pub mod units;

pub use layout::Host;
pub use names::Names;
pub use product::Product;
