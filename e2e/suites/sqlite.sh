# Two processes together write $1 transactions with a rollback journal, then as many with a write-ahead log (WAL).
for journal in delete wal; do
	sqlite3 $journal "PRAGMA journal_mode=$journal; CREATE TABLE t (id INTEGER PRIMARY KEY, who TEXT, n INTEGER);"
	writers=()
	for who in a b; do
		for ((n = 0; n < $1 / 2; n++)); do
			echo "INSERT INTO t (who, n) VALUES ('$who', $n);"
		done | sqlite3 -cmd ".timeout 600000" -bail $journal &
		writers+=($!)
	done
	for writer in "${writers[@]}"; do wait "$writer"; done
	test "$(sqlite3 $journal 'PRAGMA integrity_check')" = ok
	test "$(sqlite3 $journal 'SELECT count(*), count(DISTINCT who || n) FROM t')" = "$1|$1"
	echo "$journal: done after $SECONDS s"
done
echo "$1 transactions of two processes with a rollback journal, $1 with WAL: integrity_check ok, none lost"
