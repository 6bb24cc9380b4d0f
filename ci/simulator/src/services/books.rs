//! What nodes have and what is left of it.

use std::sync::Arc;

use plenum_services::core::constraint::Location;
use plenum_services::core::matching::{self, Amount, Offer, Portion, Take};

/// Thousandths of processors and MiB of memory of each node.
const CPUS: i64 = 8_000;
const MEM: i64 = 8_192_000;
/// The ports of each node.
const PORTS: (u64, u64) = (31_000, 31_099);

/// All that a node has, as an offer.
pub fn whole(id: String, agent: &str, host: &str) -> Offer {
    let portion =
        |name: &str, amount| Portion { name: name.to_owned(), reserved: "*".to_owned(), amount, claim: None };
    Offer {
        id,
        agent: agent.to_owned(),
        location: Arc::new(Location { host: host.to_owned(), ..Location::default() }),
        role: "*".to_owned(),
        maintenance: false,
        portions: vec![
            portion("cpus", Amount::Scalar(CPUS)),
            portion("mem", Amount::Scalar(MEM)),
            portion("disk", Amount::Scalar(MEM)),
            portion("ports", Amount::Ranges(vec![PORTS])),
        ],
    }
}

/// Takes something away; says no if it is not there.
pub fn take(offer: &mut Offer, takes: &[Take]) -> bool {
    let fits = takes.iter().all(|take| {
        match (offer.portions.get(take.portion).map(|portion| &portion.amount), &take.amount) {
            (Some(Amount::Scalar(there)), Amount::Scalar(part)) => part <= there,
            (Some(Amount::Ranges(there)), Amount::Ranges(parts)) => parts
                .iter()
                .flat_map(|(from, to)| *from..=*to)
                .all(|port| there.iter().any(|(from, to)| (*from..=*to).contains(&port))),
            _ => false,
        }
    });
    if fits {
        matching::subtract(offer, takes);
    }
    fits
}

/// Whether anything could run on it.
pub fn is_of_use(offer: &Offer) -> bool {
    matches!(offer.portions.first().map(|portion| &portion.amount), Some(Amount::Scalar(cpus)) if *cpus >= 100)
}
