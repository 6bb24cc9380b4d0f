//! Users and groups from the text of `passwd` and `group` files. No name service is asked: its plug-ins block, need
//! threads and a network, and give another answer inside a container.

/// Who a task runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups, sorted.
    pub groups: Vec<u32>,
    /// Name, if the user has one.
    pub name: Option<String>,
    /// Home folder, if the user has one.
    pub home: Option<String>,
}

/// Why a user cannot be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// Not in the `passwd` file.
    #[error("there is no user {0:?} on this machine; create it or name another in the task")]
    NoUser(String),
    /// Not in the `group` file.
    #[error("there is no group {0:?} on this machine; create it or name another in the task")]
    NoGroup(String),
}

/// Resolves `name`, `uid`, `name:group` or `uid:gid`. A number needs no entry; its group is then the same number.
pub fn resolve(user: &str, passwd: &str, group: &str) -> Result<User, UserError> {
    let (who, primary) = match user.split_once(':') {
        Some((who, primary)) => (who, Some(primary)),
        None => (user, None),
    };
    let mut found = by_name_or_number(who, passwd).ok_or_else(|| UserError::NoUser(who.to_owned()))?;
    if let Some(primary) = primary {
        found.gid = group_id(primary, group).ok_or_else(|| UserError::NoGroup(primary.to_owned()))?;
    }
    if let Some(name) = &found.name {
        found.groups = memberships(name, group);
    }
    found.groups.push(found.gid);
    found.groups.sort_unstable();
    found.groups.dedup();
    Ok(found)
}

fn by_name_or_number(who: &str, passwd: &str) -> Option<User> {
    let number = who.parse::<u32>().ok();
    let entry = passwd
        .lines()
        .filter_map(parse_entry)
        .find(|user| user.name.as_deref() == Some(who) || (number.is_some() && number == Some(user.uid)));
    // The highest number means "no change" to the kernel.
    let bare = |uid: u32| User { uid, gid: uid, groups: Vec::new(), name: None, home: None };
    entry.or_else(|| number.filter(|uid| *uid != u32::MAX).map(bare))
}

fn parse_entry(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1).filter(|home| !home.is_empty());
    Some(User { uid, gid, groups: Vec::new(), name: Some(name.to_owned()), home: home.map(str::to_owned) })
}

fn group_id(name: &str, group: &str) -> Option<u32> {
    let by_name = group.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    });
    by_name.or_else(|| name.parse().ok().filter(|gid| *gid != u32::MAX))
}

fn memberships(name: &str, group: &str) -> Vec<u32> {
    let member = |line: &str| {
        let mut fields = line.split(':');
        let gid = fields.nth(2)?.parse().ok()?;
        fields.next()?.split(',').any(|member| member == name).then_some(gid)
    };
    group.lines().filter_map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/bash\n# note\nbroken\nweb:x:33:33::/var/www:/bin/sh\n+::::::\n";
    const GROUP: &str = "root:x:0:\nweb:x:33:\ndocker:x:990:web,other\nlogs:x:4:web\nbad:x:y:web\n";

    #[test]
    fn names_and_numbers() {
        for (input, uid, gid, groups) in [
            ("root", 0, 0, vec![0]),
            ("web", 33, 33, vec![4, 33, 990]),
            ("33", 33, 33, vec![4, 33, 990]),
            ("web:docker", 33, 990, vec![4, 990]),
            ("web:7", 33, 7, vec![4, 7, 990]),
            ("1234", 1234, 1234, vec![1234]),
            ("1234:5", 1234, 5, vec![5]),
        ] {
            let user = resolve(input, PASSWD, GROUP).unwrap();
            assert_eq!((user.uid, user.gid, user.groups), (uid, gid, groups), "{input}");
        }
        assert_eq!(resolve("web", PASSWD, GROUP).unwrap().home.as_deref(), Some("/var/www"));
    }

    #[test]
    fn the_unknown_is_named() {
        for (input, error) in [
            ("ghost", UserError::NoUser("ghost".into())),
            ("", UserError::NoUser(String::new())),
            ("4294967295", UserError::NoUser("4294967295".into())),
            ("-1", UserError::NoUser("-1".into())),
            ("web:ghost", UserError::NoGroup("ghost".into())),
        ] {
            assert_eq!(resolve(input, PASSWD, GROUP).unwrap_err(), error, "{input}");
        }
    }
}
