# Run pjdfstest as root. /tmp is the second file system that some tests need.
mkdir tests
chmod 755 . tests
"$SUITES/pjdfstest" -c pjdfstest.toml -p tests -s /tmp
