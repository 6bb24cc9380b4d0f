//! Whether it is clear how many instances there are to be.

use super::super::app::App;
use super::super::scale::{Kind, Metric, Schedule, Spec};
use super::{Flaws, unique};

pub(super) fn autoscale(app: &App, flaws: &mut Flaws) {
    let Some(spec) = Spec::of(app) else { return };
    let at = "/autoscale";
    limits(at, (spec.min, spec.max), flaws);
    let any = !spec.metrics.is_empty() || !spec.schedules.is_empty();
    flaws.unless(any, at, "needs metrics or schedules");
    flaws.unless(
        unique(spec.metrics.iter().map(|metric| metric.kind)),
        &format!("{at}/metrics"),
        "each type may be there once",
    );
    for (i, one) in spec.metrics.iter().enumerate() {
        metric(app, one, &format!("{at}/metrics({i})"), flaws);
    }
    for (i, one) in spec.schedules.iter().enumerate() {
        schedule(one, &format!("{at}/schedules({i})"), flaws);
    }
    if !spec.metrics.is_empty() {
        let blind = "must be at least 1: of no instance nothing is measured";
        flaws.unless(spec.min > 0, &format!("{at}/min"), blind);
        for (i, one) in spec.schedules.iter().enumerate() {
            // None at all while it lasts need not be measured.
            flaws.unless(one.min > 0 || one.max == 0, &format!("{at}/schedules({i})/min"), blind);
        }
    }
    let most = spec.schedules.iter().map(|one| one.max).chain([spec.max]).max();
    let single = app.labels.get("MARATHON_SINGLE_INSTANCE_APP").is_some_and(|value| value == "true");
    flaws.unless(!single || most <= Some(1), at, "Single instance app may only have one instance");
}

fn limits(at: &str, (min, max): (u32, u32), flaws: &mut Flaws) {
    if min > max {
        flaws.add(format!("{at}/min"), format!("({min}) must be less or equal to max, which is {max}"));
    }
}

fn metric(app: &App, metric: &Metric, at: &str, flaws: &mut Flaws) {
    match metric.kind {
        Kind::Cpu => {}
        Kind::Memory => flaws.unless(app.mem > 0.0, at, "is a share of mem, of which the app asks for none"),
        Kind::Requests => {
            let clear = metric.port_index < app.ports().len();
            let error = "must address an element of the ports array or container port mappings.";
            flaws.unless(clear, &format!("{at}/portIndex"), error);
        }
    }
}

fn schedule(schedule: &Schedule, at: &str, flaws: &mut Flaws) {
    let error = "must be a time of day, HH:MM (UTC)";
    flaws.unless(schedule.minute().is_some(), &format!("{at}/start"), error);
    limits(at, (schedule.min, schedule.max), flaws);
}
