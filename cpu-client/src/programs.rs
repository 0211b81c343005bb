//! Variables that make programs behave in an ordinary user's session as they do here. They run as root there, and some
//! programs do other things as root. What the user's own environment says comes last, and wins.

/// The directories of programs for root, which an ordinary user's PATH often lacks.
const FOR_ROOT: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// GNU tar's defaults for a user who is not root: unpacked files are the user's, and his umask applies.
const TAR: &str = "--no-same-owner --no-same-permissions";

/// git's index records the owners of files as they are here. With this setting git does not compare owners. Otherwise it
/// would read every file there because its owner differs, and write the index so that git here reads every file again.
const GIT: (&str, &str) = ("core.checkStat", "minimal");

/// Adds the variables for tar and git.
pub(crate) fn add_options(variables: &mut Vec<(String, String)>) {
    let find = |name: &str| {
        let found = variables.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    };
    let own = find("TAR_OPTIONS").filter(|own| !own.is_empty());
    let tar = own.map_or(TAR.to_owned(), |own| format!("{TAR} {own}"));
    let mut new = vec![("TAR_OPTIONS".to_owned(), tar)];
    new.extend(git(find));
    variables.retain(|(name, _)| new.iter().all(|(other, _)| other != name));
    variables.extend(new);
}

/// The variables that add [`GIT`] to the configuration in the environment (git-config(1), `GIT_CONFIG_COUNT`). None if
/// that has a value for the key already, or cannot be parsed.
fn git<'a>(find: impl Fn(&str) -> Option<&'a str>) -> Vec<(String, String)> {
    let (key, value) = GIT;
    let Some(count) = find("GIT_CONFIG_COUNT").map_or(Some(0), |count| count.parse::<u16>().ok())
    else {
        return Vec::new();
    };
    let is_set = (0..count)
        .filter_map(|n| find(&format!("GIT_CONFIG_KEY_{n}")))
        .any(|set| set.eq_ignore_ascii_case(key));
    if is_set {
        return Vec::new();
    }
    vec![
        (format!("GIT_CONFIG_KEY_{count}"), key.to_owned()),
        (format!("GIT_CONFIG_VALUE_{count}"), value.to_owned()),
        (
            "GIT_CONFIG_COUNT".to_owned(),
            (u32::from(count) + 1).to_string(),
        ),
    ]
}

/// Appends the directories of programs for root to PATH.
pub(crate) fn extend_path(variables: &mut [(String, String)]) {
    let Some((_, path)) = variables.iter_mut().find(|(name, _)| name == "PATH") else {
        // cpud then sets a PATH of its own, with all of them.
        return;
    };
    for directory in FOR_ROOT {
        if !path.split(':').any(|other| other == directory) {
            path.push(':');
            path.push_str(directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extended(variables: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        let mut variables = variables.iter().map(own).collect();
        add_options(&mut variables);
        variables.sort();
        variables
    }

    fn value<'a>(variables: &'a [(String, String)], name: &str) -> Option<&'a str> {
        let mut found = variables.iter().filter(|(other, _)| other == name);
        let (_, value) = found.next()?;
        assert!(found.next().is_none(), "{name} twice");
        Some(value)
    }

    #[test]
    fn tars_options_end_with_the_users() {
        assert_eq!(value(&extended(&[]), "TAR_OPTIONS"), Some(TAR));
        let own = extended(&[("TAR_OPTIONS", "--same-owner -v"), ("HOME", "/h")]);
        assert_eq!(
            value(&own, "TAR_OPTIONS"),
            Some("--no-same-owner --no-same-permissions --same-owner -v")
        );
        assert_eq!(value(&own, "HOME"), Some("/h"));
    }

    #[test]
    fn gits_setting_is_added_to_the_users() {
        let all = extended(&[
            ("GIT_CONFIG_COUNT", "1"),
            ("GIT_CONFIG_KEY_0", "user.name"),
            ("GIT_CONFIG_VALUE_0", "ann"),
            // Beyond the count, so without effect until now.
            ("GIT_CONFIG_KEY_1", "left.over"),
        ]);
        for (name, wanted) in [
            ("GIT_CONFIG_COUNT", "2"),
            ("GIT_CONFIG_KEY_0", "user.name"),
            ("GIT_CONFIG_VALUE_0", "ann"),
            ("GIT_CONFIG_KEY_1", "core.checkStat"),
            ("GIT_CONFIG_VALUE_1", "minimal"),
        ] {
            assert_eq!(value(&all, name), Some(wanted), "{name}");
        }
        assert_eq!(value(&extended(&[]), "GIT_CONFIG_COUNT"), Some("1"));
    }

    #[test]
    fn a_setting_of_the_users_is_kept() {
        let set = [
            ("GIT_CONFIG_COUNT", "1"),
            ("GIT_CONFIG_KEY_0", "Core.checkstat"),
            ("GIT_CONFIG_VALUE_0", "default"),
        ];
        assert_eq!(value(&extended(&set), "GIT_CONFIG_COUNT"), Some("1"));
        for strange in ["x", "-1", "", "1000000"] {
            let all = extended(&[("GIT_CONFIG_COUNT", strange)]);
            assert_eq!(value(&all, "GIT_CONFIG_COUNT"), Some(strange));
            assert_eq!(value(&all, "GIT_CONFIG_KEY_0"), None);
        }
    }

    #[test]
    fn the_path_has_roots_programs_at_its_end() {
        for (path, wanted) in [
            (
                "/home/ann/bin:/usr/bin",
                "/home/ann/bin:/usr/bin:/usr/local/sbin:/usr/sbin:/sbin",
            ),
            (
                "/sbin:/usr/sbin:/usr/local/sbin",
                "/sbin:/usr/sbin:/usr/local/sbin",
            ),
        ] {
            let mut variables = vec![("PATH".to_owned(), path.to_owned())];
            extend_path(&mut variables);
            assert_eq!(variables[0].1, wanted);
        }
        extend_path(&mut []);
    }
}
