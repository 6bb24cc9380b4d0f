//! How many instances there are to be, left to the scheduler. An addition to Marathon's app.

use super::app::INSTANCES;
use super::{Default, Field, PATH, PLENTY, PORT, SOME_TEXT, Shape, Sign, Table};
use crate::core::scale::DAYS;

const TARGET: Field = Field::must("target", Shape::Number(0.001, PLENTY));
const SHARE: Table = Table {
    name: "AutoscaleShare",
    fields: &[Field::must("type", Shape::Word(&["cpu", "memory", "requests"])), TARGET],
};
const REQUESTS: Table = Table {
    name: "AutoscaleRequests",
    fields: &[
        Field::must("type", Shape::Word(&["requests"])),
        TARGET,
        Field::must("counter", SOME_TEXT),
        Field::new("path", PATH, Default::Text("/metrics")),
        Field::new("portIndex", PORT, Default::Number(0.0)),
    ],
};
const METRIC: Shape = Shape::OneOf(&[(Sign::Is("type", "requests"), &REQUESTS), (Sign::Else, &SHARE)]);

const SCHEDULE: Table = Table {
    name: "AutoscaleSchedule",
    fields: &[
        Field::must("start", SOME_TEXT),
        Field::must("minutes", Shape::Whole(1, 24 * 60)),
        Field::may("days", Shape::Set(&Shape::Word(&DAYS), 0)),
        Field::must("min", INSTANCES),
        Field::must("max", INSTANCES),
    ],
};

const STEP: Shape = Shape::Whole(1, 1_000_000);
const UP: Table = Table {
    name: "AutoscaleUp",
    fields: &[Field::seconds("windowSeconds", 0.0), Field::may("maxStep", STEP)],
};
const DOWN: Table = Table {
    name: "AutoscaleDown",
    fields: &[Field::seconds("windowSeconds", 300.0), Field::may("maxStep", STEP)],
};

pub(super) const AUTOSCALE: Table = Table {
    name: "Autoscale",
    fields: &[
        Field::must("min", INSTANCES),
        Field::must("max", INSTANCES),
        Field::may("metrics", Shape::List(&METRIC, 0)),
        Field::may("schedules", Shape::List(&Shape::Object(&SCHEDULE), 0)),
        Field::new("intervalSeconds", Shape::Whole(1, 3600), Default::Number(15.0)),
        Field::new("tolerance", Shape::Number(0.0, 1.0), Default::Number(0.1)),
        Field::may("scaleUp", Shape::Object(&UP)),
        Field::may("scaleDown", Shape::Object(&DOWN)),
    ],
};
