//! Users of this host that a process may run as.

use rustix::process::{geteuid, getgid};
use uzers::{get_group_by_name, get_user_by_name};

use crate::config::process::Account;

/// The account that `name` or `name:group` names; none when it is the agent's own, so that there
/// is nothing to take.
///
/// # Errors
/// Says why it cannot be taken.
pub(crate) fn account(text: &str) -> Result<Option<Account>, String> {
    let (name, group) = match text.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (text, None),
    };
    if name.contains('\0') {
        return Err("must not hold a NUL".to_owned());
    }
    let user = get_user_by_name(name).ok_or_else(|| format!("this host has no user `{name}`"))?;
    let own_group = user.primary_group_id();
    let gid = match group {
        Some(group) => get_group_by_name(group)
            .filter(|_| !group.contains('\0'))
            .ok_or_else(|| format!("this host has no group `{group}`"))?
            .gid(),
        None => own_group,
    };
    let me = geteuid();
    if !me.is_root() {
        let own = user.uid() == me.as_raw() && gid == getgid().as_raw();
        return if own { Ok(None) } else { Err(format!("only root may run programs as {text}")) };
    }
    let mut groups: Vec<u32> = user
        .groups()
        .ok_or_else(|| format!("the groups of `{name}` cannot be read"))?
        .iter()
        .map(uzers::Group::gid)
        .filter(|&id| id != own_group)
        .collect();
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    Ok(Some(Account { name: name.to_owned(), uid: user.uid(), gid, groups }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_looked_up() {
        let says = |text: &str| account(text).unwrap_err();
        assert_eq!(says("no-such-user"), "this host has no user `no-such-user`");
        assert_eq!(says("root:no-such-group"), "this host has no group `no-such-group`");
        assert_eq!(says(""), "this host has no user ``");
        if geteuid().is_root() {
            let root = account("root").unwrap().unwrap();
            assert_eq!((root.uid, root.gid), (0, 0));
            assert!(root.groups.contains(&0), "{root:?}");
            let nobody = account("nobody:root").unwrap().unwrap();
            assert_eq!((nobody.uid, nobody.gid), (65534, 0));
            assert_eq!(nobody.groups, [0], "its own group is given up");
        } else {
            assert_eq!(says("root"), "only root may run programs as root");
        }
    }
}
