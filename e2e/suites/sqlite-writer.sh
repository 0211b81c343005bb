# Insert rows until killed, and after each transaction write the row's number into the file $1.done. $1 is the journal.
sqlite3 "$1" "PRAGMA journal_mode=$1; CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT);"
for ((n = 1; n < 1000000; n++)); do
	echo "INSERT INTO t VALUES ($n, 'row $n of many, with some bytes in it');"
	echo "SELECT max(id) FROM t;"
done | stdbuf -oL sqlite3 -bail "$1" > "$1.done"
