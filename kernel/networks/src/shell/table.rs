//! The kernel's table: its chains are made with nft when it is not known to be there; its elements change by netlink, many callers' at once.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::Handle;

use crate::netlink::socket::Socket;
use crate::netlink::{elements, flows};
use crate::ports::{self, Elements, Map, Place};
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

    /// Brings the maps to what is wanted: `take` gives that, all of it or what has changed since it was last asked. Whoever waits for the lock
    /// finds its change done by the one before. Blocks.
    pub fn settle(
        &self,
        take: impl Fn(bool) -> (Option<BTreeSet<(Map, u16)>>, Elements),
    ) -> Result<(), NetworkError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Unknown until it has worked.
        if let Some((mut socket, mut has)) = known.take() {
            let (keys, goal) = take(false);
            let keys = keys.unwrap_or_default();
            let before = keys.iter().filter_map(|key| has.remove_entry(key)).collect();
            if self.change(&mut socket, &before, &goal).is_ok() {
                has.extend(goal);
                *known = Some((socket, has));
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
        let (_, goal) = take(true);
        self.change(&mut socket, &has, &goal).map_err(failed())?;
        *known = Some((socket, goal));
        Ok(())
    }

    fn change(&self, socket: &mut Socket, has: &Elements, goal: &Elements) -> io::Result<()> {
        let (gone, new) = ports::change(has, goal);
        if gone.is_empty() && new.is_empty() {
            return Ok(());
        }
        elements::change(socket, &self.name, &gone, &new)?;
        let datagrams = gone.iter().chain(&new).filter(|((map, _), _)| matches!(map, Map::Udp4 | Map::Udp6));
        let ports: BTreeSet<(bool, u16)> = datagrams.map(|((map, port), _)| (map.is_v4(), *port)).collect();
        ports.into_iter().try_for_each(|(v4, port)| flows::forget(socket, v4, port))
    }

    /// Removes the table.
    pub fn remove(&self) -> Result<(), NetworkError> {
        self.forget();
        Handle::current().block_on(nft(&format!("add table inet {0}\ndelete table inet {0}\n", self.name)))
    }
}
