//! The v2 group, as it is sent.

use super::app::{APP, ID};
use super::pod::POD;
use super::{Field, PLENTY, Shape, Sign, TEXT, Table};

/// What `GET` shows of a pod in a group: how it is, with its definition.
const POD_STATUS: Table = Table { name: "PodInGroup", fields: &[Field::must("spec", Shape::Object(&POD))] };

static INSIDE: Shape = Shape::Object(&GROUP);

/// A group with all in it.
pub static GROUP: Table = Table {
    name: "GroupUpdate",
    fields: &[
        Field::may("id", ID),
        Field::may("apps", Shape::List(&Shape::Object(&APP), 0)),
        Field::may(
            "pods",
            Shape::List(&Shape::OneOf(&[(Sign::Has("spec"), &POD_STATUS), (Sign::Else, &POD)]), 0),
        )
        .differs(
            "Marathon passes them over; here they are part of the tree, as definitions or as they are shown",
        ),
        Field::may("groups", Shape::List(&INSIDE, 0)),
        Field::may("dependencies", Shape::Set(&TEXT, 0)),
        Field::may("scaleBy", Shape::Number(0.0, PLENTY)),
        Field::may("version", Shape::Moment),
        Field::may("enforceRole", Shape::Flag).differs("left out, what there is stays"),
    ],
};
