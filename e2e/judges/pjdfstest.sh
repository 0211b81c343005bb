# Root's view of POSIX's calls. /tmp is the other file system that some tests ask for.
mkdir tests
chmod 755 . tests
"$JUDGES/pjdfstest" -c pjdfstest.toml -p tests -s /tmp
