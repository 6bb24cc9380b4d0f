//! The kernel's table: its chains are made with nft when it is not known to be there; its elements change by netlink, many callers' at once.

use std::io;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::Handle;

use crate::netlink::elements;
use crate::netlink::socket::Socket;
use crate::ports::{self, Elements, Place};
use crate::tool::nft;
use crate::types::{NetworkError, kernel};

/// The table and what it is known to hold.
#[derive(Debug)]
pub(super) struct Table {
    name: String,
    places: Vec<Place>,
    /// None when it must be looked at.
    known: Mutex<Option<(Socket, Elements)>>,
}

impl Table {
    pub fn new(name: &str, places: Vec<Place>) -> Self {
        Self { name: name.to_owned(), places, known: Mutex::new(None) }
    }

    /// Looks at the kernel's table the next time.
    pub fn forget(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Brings the maps to what is wanted. Whoever waits for the lock finds its change done by the one before. Blocks.
    pub fn settle(&self, wanted: impl Fn() -> Elements) -> Result<(), NetworkError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Unknown until it has worked.
        if let Some((mut socket, has)) = known.take() {
            let goal = wanted();
            if self.change(&mut socket, &has, &goal).is_ok() {
                *known = Some((socket, goal));
                return Ok(());
            }
        }
        let script = ports::table(&self.name, &self.places);
        if Handle::current().block_on(nft(&script)).is_err() {
            // What has this name is not as it should be: it is made anew.
            let anew = format!("add table inet {0}\ndelete table inet {0}\n{script}", self.name);
            Handle::current().block_on(nft(&anew))?;
        }
        let failed = || kernel(format!("set port mappings in the table {}", self.name));
        let mut socket = Socket::netfilter().map_err(failed())?;
        let has = elements::list(&mut socket, &self.name).map_err(failed())?;
        let goal = wanted();
        self.change(&mut socket, &has, &goal).map_err(failed())?;
        *known = Some((socket, goal));
        Ok(())
    }

    fn change(&self, socket: &mut Socket, has: &Elements, goal: &Elements) -> io::Result<()> {
        let (gone, new) = ports::change(has, goal);
        if gone.is_empty() && new.is_empty() {
            return Ok(());
        }
        elements::change(socket, &self.name, &gone, &new)
    }

    /// Removes the table.
    pub fn remove(&self) -> Result<(), NetworkError> {
        self.forget();
        Handle::current().block_on(nft(&format!("add table inet {0}\ndelete table inet {0}\n", self.name)))
    }
}
