//! Reading `cluster.yaml`.

use plenum_plan::cluster::Cluster;
use plenum_plan::init::{Answers, file};
use plenum_plan::schema::{Severity, read};
use plenum_plan::settings::{SETTINGS, reference};
use plenum_plan::spec::Kind;

const HOSTS: &str = "hosts: [{address: 10.0.0.1, roles: [master, agent]}]\n";

fn problems(text: &str) -> Vec<String> {
    read(text).problems.iter().map(ToString::to_string).collect()
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let text = "nmae: lab
hosts:
  - adress: 10.0.0.1
    roles: [mastr]
  - address: 10.0.0.300
    roles: agent
    user: ops
ssh:
  port: 70000
  password: hunter2secret
  sudo: yes
store: etcd
limits: {parallel: 0}
settings: {mastre: {x: 1}}
";
    let read = read(text);
    assert!(read.cluster.is_none());
    let told: Vec<String> = read.problems.iter().map(ToString::to_string).collect();
    for (line, piece) in [
        ("line 1, column 1: error: nmae: ", "did you mean name?"),
        ("line 3, column 5: error: hosts[0].adress: ", "did you mean address?"),
        ("line 3, column 5: error: hosts[0]: ", "address is missing"),
        ("line 4, column 13: error: hosts[0].roles[0]: ", "did you mean master?"),
        (
            "line 5, column 14: error: hosts[1].address: ",
            "\"10.0.0.300\" is not what is expected: an IP address",
        ),
        ("line 7, column 5: error: hosts[1].user: ", "did you mean hosts[].ssh.user?"),
        (
            "line 9, column 9: error: ssh.port: ",
            "70000 is not what is expected: a whole number from 1 to 65535",
        ),
        ("line 10, column 13: error: ssh.password: ", "Passwords themselves are never written here"),
        ("line 11, column 9: error: ssh.sudo: ", "auto, password, none"),
        ("line 12, column 8: error: store: ", "a map of kind, binary"),
        ("line 13, column 20: error: limits.parallel: ", "from 1 to 256"),
        ("line 14, column 12: error: settings.mastre: ", "did you mean master?"),
    ] {
        assert!(told.iter().any(|t| t.starts_with(line) && t.contains(piece)), "{line}{piece}\n{told:#?}");
    }
    assert_eq!(told.len(), 12, "{told:#?}");
}

#[test]
fn what_contradicts_itself_is_told_with_its_place() {
    let text = "hosts:
  - {address: 10.0.0.1, roles: [master]}
  - {address: 10.0.0.1, roles: [master]}
  - {address: 11.0.0.7, roles: [agent, public]}
store: {kind: embedded, certificate: x.pem}
ssh: {user: ops, sudo: none}
agents: {resources: lots}
weights: {a: -1}
";
    let told = problems(text);
    for piece in [
        "line 1, column 1: warning: hosts: 2 masters",
        "line 3, column 6: error: hosts[1].address: 10.0.0.1 is the address of hosts[0] too",
        "error: hosts[1].name: 10-0-0-1 is the name of hosts[0] too",
        "line 4, column 6: error: hosts[2].address: 11.0.0.7 lies in the range of virtual addresses",
        "hosts[2].roles: agent and public exclude each other",
        "line 5, column 9: error: store.kind: embedded is for one master, and there are 2",
        "store.certificate and store.key belong together",
        "ssh.sudo: none with the user ops",
        "agents.resources: this is not how Mesos writes resources",
        "weights.a: -1 is no positive number",
    ] {
        assert!(told.iter().any(|t| t.contains(piece)), "{piece}\n{told:#?}");
    }
}

#[test]
fn an_etcd_of_ones_own_is_named_with_what_it_needs() {
    let of = |store: &str| {
        problems(&format!("hosts: [{{address: 10.0.0.1, roles: [master, agent]}}]\nstore: {store}\n"))
    };
    for (store, pieces) in [
        ("{endpoints: ['https://e:2379'], ca: a, certificate: b, key: c}", &[][..]),
        ("{endpoints: ['https://e:2379']}", &["error: store.ca: it is missing"]),
        ("{endpoints: ['http://e:2379']}", &["warning: store.endpoints[0]: plain HTTP"]),
        (
            "{endpoints: ['https://e:2379', 'http://e:2379'], ca: a}",
            &["all of them are https:// or none is", "plain HTTP"],
        ),
        ("{ca: a}", &["error: store.ca: it is for an etcd of your own"]),
    ] {
        let told = of(store);
        assert_eq!(told.len(), pieces.len(), "{store}\n{told:#?}");
        assert!(pieces.iter().all(|piece| told.iter().any(|t| t.contains(piece))), "{store}\n{told:#?}");
    }
}

#[test]
fn bad_forms_are_errors_with_a_place() {
    for (text, piece) in [
        ("", "there are no hosts"),
        ("hosts: []", "there are no hosts"),
        ("- a", "a map of name, hosts"),
        ("hosts: [{address: 10.0.0.1, roles: [agent]}]", "no host has the role master"),
        ("hosts: [a", "this is no YAML"),
        ("a: &x [*x]", "line 1"),
        ("hosts: {a: b}", "a list is expected"),
        ("name: a\nname: b", "line 2"),
    ] {
        let told = problems(text);
        assert!(read(text).failed() && told.iter().any(|t| t.contains(piece)), "{text}: {told:?}");
    }
    let even =
        read("hosts: [{address: 10.0.0.1, roles: [master, agent]}, {address: 10.0.0.2, roles: [master]}]");
    assert!(even.cluster.is_some() && even.problems[0].severity == Severity::Warning);
}

/// What the table says of defaults is what the types do.
#[test]
fn the_table_and_the_types_agree() {
    let plain = read(HOSTS).cluster.unwrap();
    let default = Cluster { hosts: plain.hosts.clone(), ..Cluster::default() };
    assert_eq!(plain, default);
    let mut all = String::new();
    let mut group = "";
    for setting in SETTINGS.iter().filter(|s| !s.path.starts_with("hosts")) {
        let (head, word) = setting.path.split_once('.').unwrap_or(("", setting.path));
        if head != group {
            group = head;
            if !head.is_empty() {
                all += &format!("{head}:\n");
            }
        }
        all += &format!("{}{word}: {}\n", if head.is_empty() { "" } else { "  " }, setting.default);
    }
    let spoken = read(&format!("{HOSTS}{all}"));
    assert_eq!(spoken.problems, [], "{all}");
    assert_eq!(spoken.cluster.unwrap(), plain);
    // No field is without its row: each that is written is in the table.
    let json = serde_json::to_value(&plain).unwrap();
    for (key, value) in json.as_object().unwrap() {
        for word in value.as_object().into_iter().flatten().map(|(word, _)| word) {
            let path = format!("{key}.{word}");
            assert!(SETTINGS.iter().any(|s| s.path == path), "{path}");
        }
        assert!(SETTINGS.iter().any(|s| s.path.starts_with(key.as_str())), "{key}");
    }
}

#[test]
fn the_file_that_init_writes_is_one() {
    let answers = Answers {
        name: Some("lab".into()),
        hosts: vec![
            ("10.0.0.1".parse().unwrap(), vec![Kind::Master, Kind::Agent]),
            ("fd00::2".parse().unwrap(), vec![Kind::Public]),
        ],
        user: Some("ops".into()),
        key: Some("~/.ssh/key".into()),
        set: vec![("store.kind".into(), "etcd".into())],
    };
    let text = file(&answers);
    let first = read(&text);
    assert_eq!(first.problems, [], "{text}");
    let cluster = first.cluster.unwrap();
    assert_eq!((cluster.name.as_str(), cluster.ssh.user.as_str(), cluster.hosts.len()), ("lab", "ops", 2));
    assert_eq!(cluster.ssh.key, ["~/.ssh/key"]);
    // With every default made real it means the same.
    let bare: String = text
        .lines()
        .map(|line| if line.trim_start().starts_with("##") { "" } else { line })
        .map(|line| if line.starts_with("# What") || line.starts_with("# Check") { "" } else { line })
        .map(|line| format!("{}\n", line.replacen("# ", "", 1)))
        .collect();
    assert_eq!(read(&bare).cluster.unwrap(), cluster, "{bare}");
    for setting in SETTINGS {
        let word = setting.path.trim_start_matches("hosts[].");
        assert!(text.contains(word.rsplit('.').next().unwrap()), "{word}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
}

#[test]
fn the_reference_in_the_docs_is_that_of_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cluster-yaml.md");
    let page = std::fs::read_to_string(path).unwrap();
    let begin = page.find("| Setting |").expect("the table");
    if page[begin..] != reference() && std::env::var_os("PLENUM_GOLDEN").is_some() {
        std::fs::write(path, format!("{}{}", &page[..begin], reference())).unwrap();
    }
    let page = std::fs::read_to_string(path).unwrap();
    assert_eq!(&page[begin..], reference(), "PLENUM_GOLDEN=1 writes it anew");
}

#[test]
fn a_file_of_dcos_is_read() {
    let text = "---
bootstrap_url: http://10.0.0.9:80
cluster_name: 'My Cluster'
exhibitor_storage_backend: static
master_discovery: static
master_list:
- 10.0.0.1
- 10.0.0.2
- 10.0.0.3
agent_list: ['10.0.0.4']
public_agent_list:
- 10.0.0.5
resolvers:
- 8.8.4.4
dns_search: example.com
ssh_user: centos
ssh_port: 2222
ssh_key_path: /genconf/ssh_key
oauth_enabled: 'false'
telemetry_enabled: 'false'
weights: dev=2,prod=3.5
";
    let read = read(text);
    assert_eq!(read.problems, []);
    let cluster = read.cluster.unwrap();
    assert_eq!(cluster.name.as_str(), "my-cluster");
    let hosts: Vec<String> =
        cluster.hosts.iter().map(|host| format!("{} {} {:?}", host.name, host.address, host.roles)).collect();
    assert_eq!(hosts[0], "10-0-0-1 10.0.0.1 [Master]");
    assert_eq!((hosts.len(), hosts[4].as_str()), (5, "10-0-0-5 10.0.0.5 [Public]"));
    assert_eq!((cluster.ssh.user.as_str(), cluster.ssh.port), ("centos", 2222));
    assert_eq!(cluster.networks.resolvers, ["8.8.4.4"]);
    assert_eq!(cluster.weights["prod"], "3.5");
    let unused: Vec<&str> = read.foreign.iter().filter(|key| !key.used).map(|key| key.key.as_str()).collect();
    assert_eq!(
        unused,
        [
            "bootstrap_url",
            "exhibitor_storage_backend",
            "master_discovery",
            "dns_search",
            "oauth_enabled",
            "telemetry_enabled"
        ]
    );
    assert!(read.foreign.iter().all(|key| !key.why.is_empty() && key.at.line > 1));
    let wrong = problems("master_list: [10.0.0.1, nohost]\nagent_lst: []\n");
    assert!(
        wrong.iter().any(|t| t.contains("line 1, column 25: error: master_list[1]: \"nohost\"")),
        "{wrong:?}"
    );
    assert!(
        wrong.iter().any(|t| t.contains("line 2") && t.contains("did you mean agent_list?")),
        "{wrong:?}"
    );
}

#[test]
fn hostile_files_are_errors_at_most() {
    for text in [
        "hosts: [{address: {a: b}, roles: {c: [d]}}]",
        "hosts: [[[[[]]]]]",
        "name: 0x7f",
        "? {a: b}\n: c",
        "master_list: {a: b}",
        "agent_list: '[[[['\nmaster_list: 7",
        "settings: {master: {a: {b: {c: [1]}}}}",
        "hosts: [{address: 10.0.0.1, roles: [master], ssh: {port: -1e999}}]",
        "\u{feff}name: x",
        "ssh: !!map {user: \"\u{1b}[31m\"}",
    ] {
        let _ = problems(text);
    }
}
