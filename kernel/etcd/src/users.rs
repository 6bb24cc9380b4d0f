//! Who may touch what in etcd: each component is a user whose role ends at its own part; the caretaker is root. From what is there and what is
//! wanted follow the steps between. Pure; [`crate::granting`] does them.
//!
//! Users have no password: one is who the common name of one's certificate says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use plenum_base::places::{Instance, Role};
use plenum_store::moved::fence;

/// etcd's own role, which may do everything, and the user without whom etcd does not enforce anything. No certificate names that user.
pub(crate) const ROOT: &str = "root";
/// The components that keep something in etcd, each a user with a role of the same name.
pub(crate) const COMPONENTS: [Role; 5] =
    [Role::Identity, Role::Master, Role::Services, Role::Discovery, Role::Catalog];

/// What a role may do with keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Right {
    Read,
    Write,
    ReadWrite,
}

/// Keys from `key` up to `end`; one key where that is empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) key: Vec<u8>,
    pub(crate) end: Vec<u8>,
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", String::from_utf8_lossy(&self.key), String::from_utf8_lossy(&self.end))
    }
}

impl Span {
    fn one(key: &str) -> Self {
        Self { key: key.as_bytes().to_vec(), end: Vec::new() }
    }

    /// Everything below a path that ends with a slash.
    fn below(path: &str) -> Self {
        let mut end = path.as_bytes().to_vec();
        if let Some(last) = end.last_mut() {
            // After '/' comes '0': no path ends with the last byte there is.
            *last = last.saturating_add(1);
        }
        Self { key: path.as_bytes().to_vec(), end }
    }
}

/// A role's rights.
pub(crate) type Rights = BTreeMap<Span, Right>;

/// The users, with their roles, and the roles.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Users {
    pub(crate) users: BTreeMap<String, BTreeSet<String>>,
    pub(crate) roles: BTreeMap<String, Rights>,
}

impl Users {
    /// What an instance needs.
    pub(crate) fn wanted(instance: &Instance) -> Self {
        let mut wanted = Self::default();
        for user in [ROOT, Role::Etcd.as_str()] {
            wanted.users.insert(user.to_owned(), BTreeSet::from([ROOT.to_owned()]));
        }
        for component in COMPONENTS {
            let name = component.to_string();
            let prefix = format!("/plenum/{}/{component}/", instance.as_str());
            let rights =
                [(Span::one(&fence(&prefix)), Right::Read), (Span::below(&prefix), Right::ReadWrite)];
            wanted.users.insert(name.clone(), BTreeSet::from([name.clone()]));
            wanted.roles.insert(name, Rights::from(rights));
        }
        wanted
    }
}

/// One change. Each can be made again without harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    AddRole(String),
    Grant(String, Span, Right),
    Revoke(String, Span),
    AddUser(String),
    Give {
        user: String,
        role: String,
    },
    Take {
        user: String,
        role: String,
    },
    /// From here on etcd heeds all of it.
    Enforce,
}

/// The changes from `there` to `wanted`, in order: nobody loses, not even for a moment, what is its own. Users and roles that are not wanted
/// stay as they are, but what ours have too much of is taken. `enforce` says whether nobody would be locked out.
pub(crate) fn steps(there: &Users, wanted: &Users, enforce: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    for (role, rights) in &wanted.roles {
        let held = there.roles.get(role);
        if held.is_none() {
            steps.push(Step::AddRole(role.clone()));
        }
        let holds = |span: &Span| held.and_then(|held| held.get(span));
        for (span, right) in rights.iter().filter(|(span, right)| holds(span) != Some(right)) {
            steps.push(Step::Grant(role.clone(), span.clone(), *right));
        }
        for span in held.iter().flat_map(|held| held.keys()).filter(|span| !rights.contains_key(span)) {
            steps.push(Step::Revoke(role.clone(), span.clone()));
        }
    }
    for (user, roles) in &wanted.users {
        let held = there.users.get(user);
        if held.is_none() {
            steps.push(Step::AddUser(user.clone()));
        }
        let none = BTreeSet::new();
        let held = held.unwrap_or(&none);
        let change = |role: &String| (user.clone(), role.clone());
        steps.extend(roles.difference(held).map(change).map(|(user, role)| Step::Give { user, role }));
        steps.extend(held.difference(roles).map(change).map(|(user, role)| Step::Take { user, role }));
    }
    if enforce {
        steps.push(Step::Enforce);
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Users {
        Users::wanted(&"test".parse().unwrap())
    }

    /// As etcd does it.
    fn apply(there: &mut Users, step: &Step) {
        match step.clone() {
            Step::AddRole(role) => {
                there.roles.entry(role).or_default();
            }
            Step::Grant(role, span, right) => {
                there.roles.get_mut(&role).unwrap().insert(span, right);
            }
            Step::Revoke(role, span) => {
                there.roles.get_mut(&role).unwrap().remove(&span);
            }
            Step::AddUser(user) => {
                there.users.entry(user).or_default();
            }
            Step::Give { user, role } => {
                assert!(
                    role == ROOT || there.roles.contains_key(&role),
                    "{role} is given before it is there"
                );
                there.users.get_mut(&user).unwrap().insert(role);
            }
            Step::Take { user, role } => {
                there.users.get_mut(&user).unwrap().remove(&role);
            }
            Step::Enforce => assert_eq!(*there, wanted(), "enforced too early"),
        }
    }

    #[test]
    fn each_component_has_its_part_and_nothing_else() {
        let wanted = wanted();
        assert_eq!(wanted.users.len(), 7);
        let catalog: Vec<_> = wanted.roles["catalog"]
            .iter()
            .map(|(span, right)| {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                (text(&span.key), text(&span.end), *right)
            })
            .collect();
        let own = |key: &str, end: &str, right| (key.to_owned(), end.to_owned(), right);
        assert_eq!(
            catalog,
            [
                own("/plenum/test/.moved/catalog", "", Right::Read),
                own("/plenum/test/catalog/", "/plenum/test/catalog0", Right::ReadWrite),
            ]
        );
        assert!(COMPONENTS.iter().all(|role| !plenum_base::pki::store_names(*role).is_empty()));
    }

    #[test]
    fn interrupted_anywhere_it_ends_the_same() {
        let wanted = wanted();
        let all = steps(&Users::default(), &wanted, true);
        assert_eq!(all.last(), Some(&Step::Enforce));
        for done in 0..all.len() {
            let mut there = Users::default();
            all[..done].iter().for_each(|step| apply(&mut there, step));
            let rest = steps(&there, &wanted, true);
            assert_eq!(rest, all[done..], "after {done} steps");
            rest.iter().for_each(|step| apply(&mut there, step));
            assert_eq!(there, wanted);
        }
        assert_eq!(steps(&wanted, &wanted, false), []);
    }

    #[test]
    fn what_is_too_much_is_taken_and_strangers_are_left_alone() {
        let wanted = wanted();
        let mut there = wanted.clone();
        let (everything, narrow) =
            (Span { key: b"a".to_vec(), end: b"z".to_vec() }, Span::below("/plenum/test/master/"));
        let roles = &mut there.roles;
        roles.get_mut("catalog").unwrap().insert(everything.clone(), Right::Read);
        roles.get_mut("master").unwrap().insert(narrow.clone(), Right::Read);
        roles.insert("backup".to_owned(), Rights::new());
        there.users.get_mut("services").unwrap().insert(ROOT.to_owned());
        there.users.insert("somebody".to_owned(), BTreeSet::new());
        let expected = [
            Step::Revoke("catalog".to_owned(), everything),
            Step::Grant("master".to_owned(), narrow, Right::ReadWrite),
            Step::Take { user: "services".to_owned(), role: ROOT.to_owned() },
        ];
        assert_eq!(steps(&there, &wanted, false), expected);
    }
}
