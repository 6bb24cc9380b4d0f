//! Plans, as lines and as bytes.

use plenum_plan::steps::plan;

use crate::world::{SIX, apply, apply_all, cluster, given, good, lines, planned, seen};

const FRESH: &str = "\
First m1 bootstrap: there is no cluster yet; it becomes its first master
Masters m2 join: it is not in the cluster; it becomes master
Masters m3 join: it is not in the cluster; it becomes master
Hosts a1 join: it is not in the cluster; it becomes agent
Hosts a2 join: it is not in the cluster; it becomes agent
Hosts p1 join: it is not in the cluster; it becomes public
unchanged: 
";

#[test]
fn from_nothing_to_done_and_then_nothing() {
    let cluster = cluster(SIX);
    let mut seen = seen(&cluster);
    let first = plan(&cluster, &seen, &given()).unwrap();
    assert_eq!(lines(&first), FRESH);
    apply_all(&mut seen, &first);
    assert_eq!(planned(&cluster, &seen), "unchanged: m1 m2 m3 a1 a2 p1\n");
}

#[test]
fn the_same_wishes_are_the_same_bytes() {
    let cluster = cluster(SIX);
    let plan = plan(&cluster, &seen(&cluster), &given()).unwrap();
    let text = serde_json::to_string_pretty(&plan).unwrap() + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/six.json");
    if std::env::var_os("PLENUM_GOLDEN").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap(), "PLENUM_GOLDEN=1 writes it anew");
    assert_eq!(plan.specs["a1"].attributes["rack"], "1.10");
    let digest = plan.specs["a1"].digest();
    assert_eq!(digest, plan.specs["a1"].clone().digest());
    assert_ne!(digest, plan.specs["a2"].digest());
}

#[test]
fn a_run_that_was_killed_goes_on() {
    let cluster = cluster(SIX);
    let mut seen = seen(&cluster);
    let whole = plan(&cluster, &seen, &given()).unwrap();
    // The first master has its authority, and no more.
    apply(&mut seen, &whole.specs["m1"], &[]);
    let facts = seen[0].facts.as_mut().unwrap();
    (facts.plenum[0].digest, facts.plenum[0].shared) = (None, None);
    assert!(
        planned(&cluster, &seen)
            .starts_with("First m1 bootstrap: it was begun and not finished\nMasters m2 join")
    );
    // m1 is done, m2 half, a1 does not run.
    let m1 = &whole.specs["m1"];
    apply(&mut seen, m1, &[m1]);
    apply(&mut seen, &whole.specs["m2"], &[m1]);
    seen[1].facts.as_mut().unwrap().plenum[0].digest = None;
    apply(&mut seen, &whole.specs["a1"], &[m1]);
    let agent = &mut seen[3].facts.as_mut().unwrap().plenum[0];
    (agent.healthy, agent.problems) = (false, vec!["plenum-agent.service failed.".into()]);
    assert_eq!(
        planned(&cluster, &seen),
        "Masters m2 join: it was begun and not finished\n\
         Masters m3 join: it is not in the cluster; it becomes master\n\
         Hosts a1 repair: plenum-agent.service failed\n\
         Hosts a2 join: it is not in the cluster; it becomes agent\n\
         Hosts p1 join: it is not in the cluster; it becomes public\n\
         unchanged: m1\n"
    );
}

const ONE: &str = "hosts:\n  - {name: m1, address: 10.0.0.1, roles: [master, agent]}\n";
const THREE: &str = "hosts:
  - {name: m0, address: 10.0.0.9, roles: [master]}
  - {name: m1, address: 10.0.0.1, roles: [master, agent]}
  - {name: m2, address: 10.0.0.2, roles: [master]}
";

#[test]
fn growing_takes_the_living_master_along_first() {
    let (one, three) = (cluster(ONE), cluster(THREE));
    let mut small = seen(&one);
    let first = plan(&one, &small, &given()).unwrap();
    apply_all(&mut small, &first);
    let mut large = seen(&three);
    large[1] = small[0].clone();
    assert_eq!(
        planned(&three, &large),
        "First m1 update: changed: where state is kept\n\
         Masters m0 join: it is not in the cluster; it becomes master\n\
         Masters m2 join: it is not in the cluster; it becomes master\n\
         unchanged: \n"
    );
    // Back to one in the file alone: the majority would go.
    let whole = plan(&three, &large, &given()).unwrap();
    apply_all(&mut large, &whole);
    let left = vec![large[1].clone()];
    let refused = planned(&one, &left);
    assert!(refused.contains("refused: 2 of 3 masters are no longer in the file (m2, m0)"), "{refused}");
    // One goes; the cluster stays on etcd.
    let two = cluster(&THREE.replace("  - {name: m2, address: 10.0.0.2, roles: [master]}\n", ""));
    assert_eq!(
        planned(&two, &large[..2]),
        "First m0 update: the masters or its own settings differ\n\
         Masters m1 update: the masters or its own settings differ\n\
         Leaving m2 leave: it is a master of the cluster and no longer in the file\n\
         unchanged: \n"
    );
}

#[test]
fn what_is_unsafe_is_refused() {
    let six = cluster(SIX);
    let mut living = seen(&six);
    let done = plan(&six, &living, &given()).unwrap();
    apply_all(&mut living, &done);
    for (from, to, sentence) in [
        (
            "name: lab",
            "name: lab\nnetworks: {virtual_range: 12.0.0.0/16}",
            "networks.virtual_range is 11.0.0.0/16 in the living cluster and 12.0.0.0/16 in the file",
        ),
        ("name: lab", "name: lab\nnetworks: {domain: other}", "networks.domain is mesos"),
        (
            "name: lab",
            "name: lab\nstore: {endpoints: ['https://e:2379'], ca: x}",
            "store.endpoints is the masters' own etcd in the living cluster and an etcd of yours in the file",
        ),
        ("{name: a1, address", "{name: b1, address", "a1, and the file calls it b1"),
        (
            "name: p1, address: 10.0.0.6, roles: [public]",
            "name: p1, address: 10.0.0.6, roles: [agent]",
            "p1 is public in the cluster and no longer in the file",
        ),
        (
            "  - {name: m1, address: 10.0.0.1, roles: [master]}\n  - {name: m2, address: 10.0.0.2, roles: [master]}\n",
            "",
            "2 of 3 masters are no longer in the file (m1, m2)",
        ),
    ] {
        assert!(SIX.contains(from), "{from}");
        let mut changed = cluster(&SIX.replace(from, to));
        let mut seen = living.clone();
        if from.contains("a1") {
            seen[3].name = "b1".into();
        }
        changed.ssh.user = "root".into();
        let text = planned(&changed, &seen);
        assert!(text.starts_with("refused: ") && text.contains(sentence), "{sentence}\n{text}");
    }
    // Another cluster of the same name.
    let mut strangers = living.clone();
    strangers[4].facts.as_mut().unwrap().plenum[0].authority = Some("other".into());
    assert!(planned(&six, &strangers).contains("m1 and a2 belong to two different clusters, both named lab"));
    // An agent of a living cluster, whose masters are not in the file.
    let mut alone = seen(&six);
    alone[3] = living[3].clone();
    let text = planned(&six, &alone);
    assert!(text.contains("a1 belongs to this cluster already, and no master in the file does"), "{text}");
    // A host that could not be asked.
    let mut silent = living;
    silent[5].facts = Err("no route to host".into());
    assert!(
        planned(&six, &silent)
            .contains("p1 could not be asked, and a plan needs to know every host: no route to host")
    );
}

#[test]
fn a_setting_that_changes_updates_whom_it_concerns() {
    let six = cluster(SIX);
    let mut living = seen(&six);
    let done = plan(&six, &living, &given()).unwrap();
    apply_all(&mut living, &done);
    let zone = cluster(&SIX.replace("zone: z1", "zone: z2"));
    assert_eq!(
        planned(&zone, &living),
        "Hosts a1 update: the masters or its own settings differ\nunchanged: m1 m2 m3 a2 p1\n"
    );
    let newer = plenum_plan::steps::Given { version: "0.2.0".into(), ..given() };
    let text = lines(&plan(&six, &living, &newer).unwrap());
    assert!(
        text.starts_with("First m1 update: it runs 0.1.0, and this is 0.2.0\nMasters m2 update"),
        "{text}"
    );
    let _ = good(&six, "m1");
}
