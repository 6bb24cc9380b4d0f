//! Containers on networks of CNI plugins: record, namespace, ADD; CHECK when it is there; DEL in the end, or when ADD fails.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tokio::runtime::Handle;

use crate::cni::{self, Chain, Kept, List};
use crate::namespace::{self, Six};
use crate::netlink::route;
use crate::records::Record;
use crate::state::{Kind, Link, State, decide};
use crate::types::{Attached, Network, NetworkError, Wish, file, kernel};

use super::inner::Inner;

impl Inner {
    fn chain<'a>(
        &'a self,
        list: &'a List,
        container: &'a str,
        netns: &'a std::path::Path,
        record: &'a Record,
    ) -> Chain<'a> {
        let (ports, labels, addresses) = (&record.ports, &record.labels, &record.addresses);
        Chain { cni: &self.settings.cni, list, container, netns, ports, labels, addresses }
    }

    /// Attaches a container by plugins. One that is attached is checked, and attached anew if plugins say that something is wrong.
    pub(super) fn attach_by_plugins(
        &self,
        container: &str,
        name: &str,
        wish: &Wish,
    ) -> Result<Attached, NetworkError> {
        let netns = self.netns(container);
        let before = self.held().records.get(container).cloned();
        if let Some(record) = before {
            if let Some(Kept { list, result: Some(result) }) = &record.cni
                && namespace::is_there(&netns)
            {
                let chain = self.chain(list, container, &netns, &record);
                if Handle::current().block_on(chain.check(result)).is_ok() {
                    return self.told(&chain, &record, result);
                }
            }
            // Whatever was begun or is broken goes first.
            self.detach(container)?;
        }
        let list = cni::find(self.settings.cni.config.as_deref(), name)?.ok_or_else(|| {
            NetworkError::Unknown { name: name.to_owned(), known: "its file is gone".to_owned() }
        })?;
        let mut record = Record {
            network: Network::Cni(name.to_owned()),
            number: 0,
            ports: wish.ports.clone(),
            labels: wish.labels.clone(),
            addresses: wish.addresses.clone(),
            cni: Some(Kept { list: list.clone(), result: None }),
        };
        self.chain(&list, container, &netns, &record).refuse()?;
        {
            let mut held = self.held();
            self.free_ports(&held, container, wish)?;
            self.note(&mut held, container, &record)?;
        }
        let added = self.add(&list, container, &record);
        let (result, attached) = match added {
            Ok(added) => added,
            Err(error) => {
                // The error that matters is the first one; what cannot be undone now is undone by `detach`.
                let _ = self.detach(container);
                return Err(error);
            }
        };
        record.cni = Some(Kept { list, result: Some(result) });
        self.note(&mut self.held(), container, &record)?;
        Ok(attached)
    }

    fn add(
        &self,
        list: &List,
        container: &str,
        record: &Record,
    ) -> Result<(serde_json::Value, Attached), NetworkError> {
        let netns = self.netns(container);
        let (mut socket, _) =
            namespace::open(&netns, Six::Usual).map_err(file("make the namespace", &netns))?;
        let lo = |up| {
            let link = Link { up, ..Link::new(Kind::Other) };
            State { links: [("lo".to_owned(), link)].into(), ..State::default() }
        };
        let failed = || kernel("set up the namespace");
        route::apply(&mut socket, &decide(&lo(true), &lo(false))).map_err(failed())?;
        let chain = self.chain(list, container, &netns, record);
        let result = Handle::current().block_on(chain.add())?;
        let attached = self.told(&chain, record, &result)?;
        // A plugin is believed when what it says is there.
        let (state, _) = route::read(&mut socket, |_, _| true).map_err(failed())?;
        let there: BTreeSet<IpAddr> =
            state.links.values().flat_map(|link| &link.addresses).map(|net| net.address).collect();
        if let Some(missing) = attached.addresses.iter().find(|net| !there.contains(&net.address)) {
            let tool = format!("CNI network {}", list.name);
            let reason =
                format!("its plugins say that the container has the address {missing}, which is not so");
            return Err(NetworkError::Tool { tool, reason });
        }
        Ok((result, attached))
    }

    fn told(
        &self,
        chain: &Chain<'_>,
        record: &Record,
        result: &serde_json::Value,
    ) -> Result<Attached, NetworkError> {
        let plain = record.attached(&chain.list.name, chain.netns.to_owned());
        let mut attached = chain.read(result, plain)?;
        if attached.dns.is_empty() {
            attached.dns = self.settings.servers(None);
        }
        attached.search.extend(self.settings.search.iter().cloned());
        Ok(attached)
    }

    /// Calls plugins with DEL, with what they were called with before.
    pub(super) fn detach_by_plugins(&self, container: &str, record: &Record) -> Result<(), NetworkError> {
        let Some(kept) = &record.cni else { return Ok(()) };
        let netns = self.netns(container);
        let chain = self.chain(&kept.list, container, &netns, record);
        Handle::current().block_on(chain.remove(kept.result.as_ref()))
    }
}
