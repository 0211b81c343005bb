# Root's view of POSIX's calls. The suite renames, so the settings and the tests have directories of their own.
mkdir tests
chmod 755 . tests
"$JUDGES/pjdfstest" -c pjdfstest.toml -p tests
