# Four clients of a file server's load, for $1 seconds.
dbench -t "$1" -c /usr/share/dbench/client.txt -D . 4
