//! The cluster's map: which masters there are. An identity puts itself in when it starts; an operator takes out.

use plenum_base::cluster::{ClusterMap, MasterNode};
use plenum_store::{StoreError, Txn};

use super::turn::Tries;
use super::{Directory, DirectoryError};
use crate::records::{self, ClusterRecord, FORMAT};

/// The most masters, and the most names of former ones, that the map holds.
const MOST: usize = 99;

impl Directory {
    /// The masters; none on a single machine.
    pub(crate) async fn masters(&self) -> Result<ClusterMap, DirectoryError> {
        Ok(self.look::<ClusterRecord>("cluster").await?.map(|held| held.map).unwrap_or_default())
    }

    /// Puts this master into the map, unless it leaves or is there.
    pub(crate) async fn enter(&self) -> Result<(), DirectoryError> {
        let (Some(name), Some(address)) = (&self.config.name, self.config.address) else { return Ok(()) };
        let own = MasterNode { name: name.clone(), address };
        self.edit_map(|map| {
            if map.leaving.contains(&own.name) {
                tracing::warn!(name = own.name, "this master is being taken out; it stays out of the map");
                return Ok(None);
            }
            if map.masters.contains(&own) {
                return Ok(None);
            }
            let mut masters = map.masters.clone();
            masters.retain(|node| node.name != own.name);
            masters.push(own.clone());
            masters.sort();
            if masters.len() > MOST {
                return Err(DirectoryError::Failed(format!("a cluster has at most {MOST} masters")));
            }
            Ok(Some(ClusterMap { masters, ..map.clone() }))
        })
        .await
    }

    /// Takes a master out: first it leaves, which others learn of; with `gone` it is out of the map.
    pub(crate) async fn take_out(&self, name: &str, gone: bool) -> Result<(), DirectoryError> {
        self.edit_map(|map| {
            let leaves = map.leaving.iter().any(|leaving| leaving == name);
            match map.find(name) {
                None if leaves && gone => Ok(None),
                None => Err(DirectoryError::Missing("master")),
                Some(_) if leaves && !gone => Ok(None),
                Some(_) => without(map, name, gone).map(Some),
            }
        })
        .await
    }

    async fn edit_map(
        &self,
        edit: impl Fn(&ClusterMap) -> Result<Option<ClusterMap>, DirectoryError>,
    ) -> Result<(), DirectoryError> {
        let mut tries = Tries::default();
        loop {
            let turn = self.begin(&mut tries).await?;
            let held = self.get::<ClusterRecord>("cluster").await?;
            let map = held.as_ref().map(|held| held.record.map.clone()).unwrap_or_default();
            let Some(edited) = edit(&map)? else { return Ok(()) };
            let map = ClusterMap { number: map.number.saturating_add(1), ..edited };
            let txn = match held {
                Some(held) => Txn::new().unchanged("cluster", held.revision),
                None => Txn::new().absent("cluster"),
            };
            let record = ClusterRecord { format: FORMAT, map };
            match self.finish(turn, txn.put("cluster", records::write("cluster", &record)?)).await {
                Ok(true) => return Ok(()),
                Ok(false) | Err(DirectoryError::Store(StoreError::Conflict { .. })) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The map after `name` began to leave, or with `gone` left. Its number is the caller's business where it is not raised here.
pub(super) fn without(map: &ClusterMap, name: &str, gone: bool) -> Result<ClusterMap, DirectoryError> {
    let stays = |node: &&MasterNode| node.name != name && !map.leaving.contains(&node.name);
    if map.masters.iter().filter(stays).count() == 0 {
        return Err(DirectoryError::LastMaster);
    }
    let mut next = map.clone();
    next.number = map.number.saturating_add(1);
    if gone {
        next.masters.retain(|node| node.name != name);
    }
    if !next.leaving.iter().any(|leaving| leaving == name) {
        next.leaving.push(name.to_owned());
    }
    // Former masters are forgotten from the front, those that are still in the map never.
    while next.leaving.len() > MOST {
        let Some(place) = next.leaving.iter().position(|name| next.find(name).is_none()) else { break };
        next.leaving.remove(place);
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_leave_one_by_one_and_never_the_last() {
        let node = |name: &str, n: u8| MasterNode { name: name.into(), address: [10, 0, 0, n].into() };
        let map = ClusterMap { number: 3, masters: vec![node("a", 1), node("b", 2)], leaving: vec![] };
        let leaving = without(&map, "a", false).unwrap();
        assert_eq!(
            (leaving.number, leaving.masters.len(), leaving.leaving.as_slice()),
            (4, 2, &["a".to_owned()][..])
        );
        let gone = without(&leaving, "a", true).unwrap();
        assert_eq!((gone.masters.len(), gone.leaving.len()), (1, 1));
        for (map, name) in [(&leaving, "b"), (&gone, "b")] {
            assert!(matches!(without(map, name, false), Err(DirectoryError::LastMaster)));
        }
        let many = ClusterMap { leaving: (0..MOST).map(|n| n.to_string()).collect(), ..map };
        let trimmed = without(&many, "a", false).unwrap();
        assert_eq!((trimmed.leaving.len(), trimmed.leaving.last().unwrap().as_str()), (MOST, "a"));
    }
}
