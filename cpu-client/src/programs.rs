//! What programs are told in the environment of an ordinary user's session. They are root there and not here, and
//! each that then does otherwise has a word of its own for it. What the user himself has told them comes last, and wins.

/// Where programs for root are; an ordinary user's PATH often lacks them.
const FOR_ROOT: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// What GNU tar does for whoever is not root: what it unpacks is the user's, and his umask counts.
const TAR: &str = "--no-same-owner --no-same-permissions";

/// git's index has the owners of files as they are here. Told not to compare them, git neither reads every file
/// there, nor writes owners into the index for which every file would be read here.
const GIT: (&str, &str) = ("core.checkStat", "minimal");

/// Adds what they are to be told.
pub(crate) fn tell(variables: &mut Vec<(String, String)>) {
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

/// [`GIT`] beside what the environment says already (git-config(1), `GIT_CONFIG_COUNT`); nothing where that says it
/// otherwise, or is not to be understood.
fn git<'a>(find: impl Fn(&str) -> Option<&'a str>) -> Vec<(String, String)> {
    let (key, value) = GIT;
    let Some(count) = find("GIT_CONFIG_COUNT").map_or(Some(0), |count| count.parse::<u16>().ok())
    else {
        return Vec::new();
    };
    let is_said = (0..count)
        .filter_map(|n| find(&format!("GIT_CONFIG_KEY_{n}")))
        .any(|said| said.eq_ignore_ascii_case(key));
    if is_said {
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

/// Adds to PATH, at its end, where programs for root are.
pub(crate) fn extend_path(variables: &mut [(String, String)]) {
    let Some((_, path)) = variables.iter_mut().find(|(name, _)| name == "PATH") else {
        // cpud has one of its own, with all of them.
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

    fn told(variables: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        let mut variables = variables.iter().map(own).collect();
        tell(&mut variables);
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
    fn tar_hears_the_users_words_last() {
        assert_eq!(value(&told(&[]), "TAR_OPTIONS"), Some(TAR));
        let own = told(&[("TAR_OPTIONS", "--same-owner -v"), ("HOME", "/h")]);
        assert_eq!(
            value(&own, "TAR_OPTIONS"),
            Some("--no-same-owner --no-same-permissions --same-owner -v")
        );
        assert_eq!(value(&own, "HOME"), Some("/h"));
    }

    #[test]
    fn git_hears_ours_beside_the_users() {
        let all = told(&[
            ("GIT_CONFIG_COUNT", "1"),
            ("GIT_CONFIG_KEY_0", "user.name"),
            ("GIT_CONFIG_VALUE_0", "ann"),
            // Not counted, so not heard until now.
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
        assert_eq!(value(&told(&[]), "GIT_CONFIG_COUNT"), Some("1"));
    }

    #[test]
    fn git_is_left_alone_where_the_user_has_said_so() {
        let said = [
            ("GIT_CONFIG_COUNT", "1"),
            ("GIT_CONFIG_KEY_0", "Core.checkstat"),
            ("GIT_CONFIG_VALUE_0", "default"),
        ];
        assert_eq!(value(&told(&said), "GIT_CONFIG_COUNT"), Some("1"));
        for strange in ["x", "-1", "", "1000000"] {
            let all = told(&[("GIT_CONFIG_COUNT", strange)]);
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
