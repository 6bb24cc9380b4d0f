//! Parts of what was taken of an offer, for a pod's executor and each of its tasks.

use plenum_api::mesos::{self, Resource};

use crate::core::matching::{Amount, Take, thousandths};
use crate::core::pod::Resources;

/// What is left to be given away.
pub(super) struct Shares<'a> {
    offer: &'a mesos::Offer,
    left: Vec<Take>,
}

impl<'a> Shares<'a> {
    pub(super) fn new(offer: &'a mesos::Offer, takes: &[Take]) -> Self {
        Self { offer, left: takes.to_vec() }
    }

    /// So much of each; of several portions where one is not enough.
    pub(super) fn take(&mut self, wanted: &Resources) -> Vec<Resource> {
        let amounts = [
            ("cpus", thousandths(wanted.cpus)),
            ("mem", thousandths(wanted.mem)),
            ("disk", thousandths(wanted.disk)),
            ("gpus", i64::from(wanted.gpus).saturating_mul(1000)),
        ];
        let mut cut = Vec::new();
        for (name, mut amount) in amounts {
            for one in &mut self.left {
                let is_it = self.offer.resources.get(one.portion).is_some_and(|r| r.name == name);
                let Amount::Scalar(left) = &mut one.amount else { continue };
                let part = amount.min(*left);
                if is_it && part > 0 {
                    (*left, amount) = (*left - part, amount - part);
                    cut.push(Take { portion: one.portion, amount: Amount::Scalar(part) });
                }
            }
        }
        super::resources(self.offer, &cut)
    }

    /// All that is left of that name.
    pub(super) fn rest(self, name: &str) -> Vec<Resource> {
        let offer = self.offer;
        let is_it = |take: &Take| offer.resources.get(take.portion).is_some_and(|r| r.name == name);
        let left: Vec<Take> = self.left.into_iter().filter(is_it).collect();
        super::resources(offer, &left)
    }
}
