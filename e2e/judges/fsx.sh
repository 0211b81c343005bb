# Random reads, writes, mappings, truncations, renewals of one file, each checked against a model in memory: $1
# of them by read(2) and write(2) alone, $1 with mmap(2) too. $2 is the seed.
cat > plain.toml <<'DONE'
[weights]
close_open = 1
fsync = 1
fdatasync = 1
sendfile = 1
copy_file_range = 1
mapread = 0
mapwrite = 0
read = 10
write = 10
truncate = 5
DONE
sed 's/^map.*0/&.0/; s/^\(map.*\) = .*/\1 = 10/' plain.toml > mapped.toml
for kind in plain mapped; do
	"$JUDGES/fsx" -q -N "$1" -S "$2" -f "$kind.toml" "$kind"
done
echo "$1 operations by read and write, $1 with mmap too, seed $2: no difference"
