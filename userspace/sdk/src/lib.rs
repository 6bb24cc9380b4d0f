//! For those who write frameworks: a driver for the Mesos v1 scheduler API and a client of the operator API, over HTTP,
//! in JSON or protobuf.
//!
//! [`scheduler::connect`] keeps a subscription alive: it finds the leading master, follows redirects, watches
//! heartbeats and subscribes again after each loss. What happens arrives as [`scheduler::Happening`]s; calls go out
//! through a [`scheduler::Scheduler`]. [`operator::Operator`] makes single calls and follows the operator's stream.
//!
//! ```no_run
//! # async fn doc() -> Result<(), Box<dyn std::error::Error>> {
//! use plenum_sdk::scheduler::{self, Happening, Options};
//! use plenum_sdk::{Client, mesos};
//!
//! let framework = mesos::FrameworkInfo { user: "root".into(), name: "demo".into(), ..Default::default() };
//! let (scheduler, mut events) = scheduler::connect(Client::plain()?, Options::new(["http://127.0.0.1:5050"], framework));
//! while let Some(happening) = events.next().await {
//!     if let Happening::Event(event) = happening {
//!         if let Some(offers) = event.offers {
//!             scheduler.decline(offers.offers.into_iter().map(|o| o.id).collect(), 60.0).await?;
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod masters;
pub mod operator;
pub mod scheduler;
mod stream;

pub use plenum_api::codec::Encoding;
pub use plenum_api::{master, mesos};
pub use plenum_base::client::{Client, ClientError, Credentials};
pub use plenum_base::leading::Leading;
pub use stream::CallError;
