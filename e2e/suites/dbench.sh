# Simulate four clients of a file server for $1 seconds.
dbench -t "$1" -c /usr/share/dbench/client.txt -D . 4
