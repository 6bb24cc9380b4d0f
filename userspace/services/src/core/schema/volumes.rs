//! Volumes of containers, of every kind.

use super::{Default, Field, LABELS, NO_SECRETS, SOME_TEXT, Shape, Sign, TEXT, Table};

const MODE: Shape = Shape::Word(&["RO", "RW"]);
const SIZE: Shape = Shape::Whole(0, i64::MAX);

/// Kinds of volumes, by the field that only they have.
pub(super) const VOLUME: Shape = Shape::OneOf(&[
    (Sign::Has("persistent"), &PERSISTENT),
    (Sign::Has("external"), &EXTERNAL),
    (Sign::Has("secret"), &SECRET),
    (Sign::Else, &HOST),
]);

const HOST: Table = Table {
    name: "AppHostVolume",
    fields: &[
        Field::must("containerPath", SOME_TEXT),
        Field::must("hostPath", SOME_TEXT),
        Field::must("mode", MODE),
    ],
};

const SECRET: Table = Table {
    name: "AppSecretVolume",
    fields: &[Field::must("containerPath", SOME_TEXT), Field::must("secret", SOME_TEXT).differs(NO_SECRETS)],
};

pub(in crate::core) const NO_DISKS: &str =
    "persistent volumes are made on the disk of the agent's working folder (root) only";

const PERSISTENT: Table = Table {
    name: "AppPersistentVolume",
    fields: &[
        Field::must("containerPath", SOME_TEXT),
        Field::must("persistent", Shape::Object(&PERSISTENT_INFO)),
        Field::must("mode", MODE),
    ],
};

const PERSISTENT_INFO: Table = Table {
    name: "PersistentVolumeInfo",
    fields: &[
        Field::new(
            "type",
            Shape::Word(&["root", "path", "mount"]),
            Default::Derived("`root`; `mount` with a profile"),
        )
        .differs("`root` only"),
        Field::must("size", SIZE),
        Field::may("maxSize", SIZE).refused(NO_DISKS),
        Field::may("profileName", TEXT).refused(NO_DISKS),
        Field::new("constraints", Shape::Set(&Shape::List(&TEXT, 0), 0), Default::List).refused(NO_DISKS),
    ],
};

const EXTERNAL: Table = Table {
    name: "AppExternalVolume",
    fields: &[
        Field::must("containerPath", SOME_TEXT),
        Field::must("external", Shape::OneOf(&[(Sign::Is("provider", "csi"), &CSI), (Sign::Else, &DVDI)])),
        Field::must("mode", MODE),
    ],
};

const DVDI: Table = Table {
    name: "DVDIExternalVolumeInfo",
    fields: &[
        Field::may("size", SIZE),
        Field::may("name", TEXT),
        Field::may("provider", TEXT),
        Field::may("options", LABELS),
        Field::new("shared", Shape::Flag, Default::Flag(false)),
    ],
};

pub(in crate::core) const NO_CSI: &str = "csi volumes are not supported: the agent has volume drivers (dvdi)";

const CSI: Table = Table {
    name: "CSIExternalVolumeInfo",
    fields: &[
        Field::must("name", TEXT).refused(NO_CSI),
        Field::must("provider", Shape::Word(&["csi"])).refused(NO_CSI),
        Field::must("options", Shape::Object(&CSI_OPTIONS)).refused(NO_CSI),
    ],
};

const CSI_OPTIONS: Table = Table {
    name: "CSIExternalVolumeInfoOptions",
    fields: &[
        Field::must("pluginName", SOME_TEXT).refused(NO_CSI),
        Field::must("capability", Shape::Object(&CSI_CAPABILITY)).refused(NO_CSI),
        Field::may("nodeStageSecret", LABELS).refused(NO_CSI),
        Field::may("nodePublishSecret", LABELS).refused(NO_CSI),
        Field::may("volumeContext", LABELS).refused(NO_CSI),
    ],
};

const CSI_CAPABILITY: Table = Table {
    name: "CSICapability",
    fields: &[
        Field::must(
            "accessMode",
            Shape::Word(&[
                "SINGLE_NODE_WRITER",
                "SINGLE_NODE_READER_ONLY",
                "MULTI_NODE_READER_ONLY",
                "MULTI_NODE_SINGLE_WRITER",
                "MULTI_NODE_MULTI_WRITER",
            ]),
        )
        .refused(NO_CSI),
        Field::must("accessType", Shape::Word(&["block", "mount"])).refused(NO_CSI),
        Field::may("fsType", TEXT).refused(NO_CSI),
        Field::may("mountFlags", Shape::List(&TEXT, 0)).refused(NO_CSI),
    ],
};
