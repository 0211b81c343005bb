//! Traces of what commands asked for, in `~/.cache/cpu/traces`: the next session with the same command is sent that ahead. Whatever goes
//! wrong here is no error of the session.
//!
//! The directory may be among what is served, so what is in it is hostile. A trace is a list of paths, of which the machine gets what
//! it could have asked for.
//!
//! Only the same command counts: what another one of the same program has read may be much, and is in the way of what this one reads.

use std::fs::{self, DirBuilder, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ninep::learned::{LearnedTrace, MAX_TRACE};
use ninep::server::Learning;
use nix::unistd::geteuid;
use tracing::debug;

/// What all traces may take.
const MAX_TRACES: u64 = 16 << 20;
/// How many files are looked at when room is made. Only somebody else's are more.
const MAX_LOOKED_AT: usize = 8192;
/// Of a shell, only its start is learned: what is typed is something else each time.
const SHELL_START: Duration = Duration::from_secs(10);

/// Where the trace of a command is.
pub(crate) struct TraceStore {
    directory: PathBuf,
    /// Its file, for this command in this directory.
    name: String,
    is_shell: bool,
}

impl TraceStore {
    /// For a command and the directory that is served as the root; `None` if there is no place for it.
    pub(crate) fn new(root: &Path, argv: &[Vec<u8>]) -> Option<Self> {
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        let cache = cache_directory(variable("XDG_CACHE_HOME"), variable("HOME"))?;
        let here = std::env::current_dir().unwrap_or_default();
        Some(Self::of(cache.join("cpu/traces"), root, &here, argv))
    }

    fn of(directory: PathBuf, root: &Path, here: &Path, argv: &[Vec<u8>]) -> Self {
        let root = fs::canonicalize(root).unwrap_or_default();
        let mut hasher = DefaultHasher::new();
        (root, here, argv).hash(&mut hasher);
        Self {
            directory,
            name: format!("{:016x}", hasher.finish()),
            is_shell: argv.is_empty(),
        }
    }

    /// What is known of the command, and learns more of it.
    pub(crate) fn learning(&self) -> Learning {
        let path = self.directory.join(&self.name);
        let known = read(&path).unwrap_or_else(|error| {
            debug!("no trace in {}: {error}", path.display());
            None
        });
        let time = self.is_shell.then_some(SHELL_START);
        Learning::new(known.unwrap_or_default(), time)
    }

    /// Writes what was learned.
    pub(crate) fn save(&self, learning: &Learning) {
        let Some(trace) = learning.trace() else {
            return;
        };
        let bytes = trace.encode();
        if let Err(error) = self.write(&self.name, &bytes) {
            let path = self.directory.join(&self.name);
            debug!("cannot write the trace {}: {error}", path.display());
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)?;
        let directory = fs::symlink_metadata(&self.directory)?;
        if !is_own_directory(&directory) || directory.mode() & 0o077 != 0 {
            return Err(io::Error::other("its directory is not this user's alone"));
        }
        self.make_room(name, bytes.len() as u64)?;
        // A name of this process: two sessions may end at the same time.
        let new = self
            .directory
            .join(format!("{name}.{}", std::process::id()));
        let _ = fs::remove_file(&new);
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&new);
        let written = file
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| fs::rename(&new, self.directory.join(name)));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }

    /// Removes the oldest traces until there is room for one of this size.
    fn make_room(&self, name: &str, size: u64) -> io::Result<()> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.directory)?.flatten().take(MAX_LOOKED_AT) {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_file() && entry.file_name() != name {
                let time = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                // A small one takes a block, too.
                all.push((time, metadata.len().max(4096), entry.path()));
            }
        }
        all.sort_unstable();
        let mut sum = all.iter().map(|(_, size, _)| size).sum::<u64>();
        for (_, old, path) in all {
            if sum + size <= MAX_TRACES {
                break;
            }
            sum -= old;
            // Another session may have done so.
            if let Err(error) = fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Where this user's caches are. A home that is not there is not made, and root leaves no files in that of the user who called sudo.
fn cache_directory(cache_home: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let is_own = |path: &Path| fs::metadata(path).map(|found| is_own_directory(&found));
    if let Some(cache) = cache_home.filter(|path| path.is_absolute()) {
        let is_own = match is_own(&cache) {
            // Its parent may be a home.
            Err(error) if error.kind() == io::ErrorKind::NotFound => is_own(cache.parent()?),
            known => known,
        };
        return is_own.unwrap_or(false).then_some(cache);
    }
    let home = home.filter(|path| path.is_absolute())?;
    is_own(&home).unwrap_or(false).then(|| home.join(".cache"))
}

fn is_own_directory(metadata: &fs::Metadata) -> bool {
    metadata.is_dir() && metadata.uid() == geteuid().as_raw()
}

/// A trace; none if the file is damaged.
fn read(path: &Path) -> io::Result<Option<LearnedTrace>> {
    let mut options = OpenOptions::new();
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = options.read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_TRACE as u64 + 1).read_to_end(&mut bytes)?;
    let trace = LearnedTrace::decode(&bytes);
    if trace.is_none() {
        debug!("{} is no trace", path.display());
    }
    Ok(trace)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use ninep::learned::Demand;

    use super::*;

    fn store(directory: &Path, words: &[&str]) -> TraceStore {
        let argv: Vec<_> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        let traces = directory.join("cpu/traces");
        TraceStore::of(traces, Path::new("/"), Path::new("/home"), &argv)
    }

    fn trace(paths: &[&str]) -> Vec<u8> {
        let mut trace = LearnedTrace::default();
        for path in paths {
            trace.add(path.as_bytes(), Demand::Name);
        }
        trace.encode()
    }

    #[test]
    fn a_trace_is_private_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let one = store(directory.path(), &["python3", "a.py"]);
        one.write(&one.name, &trace(&["a"])).unwrap();
        let found = |store: &TraceStore| read(&store.directory.join(&store.name)).ok().flatten();
        let again = store(directory.path(), &["python3", "a.py"]);
        assert_eq!(found(&again).unwrap().encode(), trace(&["a"]));
        for other in [&["python3", "b.py"][..], &["python3"], &[]] {
            assert!(found(&store(directory.path(), other)).is_none());
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&one.directory), 0o700);
        assert_eq!(mode(&one.directory.join(&one.name)), 0o600);
        assert_eq!(fs::read_dir(&one.directory).unwrap().count(), 1);
    }

    #[test]
    fn no_home_is_made_and_no_other_users_home_is_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name| directory.path().join(name);
        let of_home = |home: PathBuf| cache_directory(None, Some(home));
        fs::create_dir(at("home")).unwrap();
        std::os::unix::fs::symlink("home", at("link")).unwrap();
        fs::write(at("file"), "").unwrap();
        assert_eq!(of_home(at("home")), Some(at("home/.cache")));
        assert_eq!(of_home(at("link")), Some(at("link/.cache")));
        for not in [at("absent"), at("file"), "home".into(), "".into()] {
            assert_eq!(of_home(not), None);
        }
        if geteuid().is_root() {
            std::os::unix::fs::chown(at("home"), Some(1), None).unwrap();
            assert_eq!(of_home(at("home")), None);
            assert_eq!(cache_directory(Some(at("home")), None), None);
            assert_eq!(cache_directory(Some(at("home/c")), None), None);
        } else {
            assert_eq!(of_home("/".into()), None);
        }
        assert_eq!(cache_directory(Some(at("c")), None), Some(at("c")));
        for not in ["c".into(), at("absent/.cache"), at("file"), at("file/c")] {
            assert_eq!(cache_directory(Some(not), None), None);
        }
    }

    #[test]
    fn damaged_and_foreign_files_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let one = store(directory.path(), &["x"]);
        one.write(&one.name, b"cpu trace 2\n\x07").unwrap();
        let path = one.directory.join(&one.name);
        assert!(read(&path).unwrap().is_none());
        assert!(one.learning().trace().is_none());
        fs::write(&path, vec![0; MAX_TRACE + 1]).unwrap();
        assert!(read(&path).unwrap().is_none());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(read(&path).is_err());
        // It is replaced, and not what it leads to.
        one.write(&one.name, &trace(&["a"])).unwrap();
        assert!(read(&path).unwrap().is_some());
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&one.directory, mode).unwrap();
        assert!(one.write(&one.name, &trace(&["b"])).is_err());
    }

    #[test]
    fn the_oldest_traces_make_room() {
        let directory = tempfile::tempdir().unwrap();
        let one = store(directory.path(), &["x"]);
        let large = vec![0; MAX_TRACE];
        for n in 0..80_u64 {
            let name = format!("{n:02}");
            one.write(&name, &large).unwrap();
            let file = fs::File::open(one.directory.join(&name)).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(n);
            file.set_modified(time).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(&one.directory).unwrap().flatten().collect();
        names.sort_by_key(fs::DirEntry::file_name);
        assert_eq!(names.len(), 64);
        assert_eq!(names[0].file_name(), "16");
    }
}
