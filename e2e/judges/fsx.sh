# $1 random reads, writes, truncations, renewals of one file, each checked against a model in memory; half of them by
# read(2) and write(2) alone, half with mmap(2) too; one in a hundred is large, of up to half a megabyte. $2 is the seed.
settings() {
	cat <<-DONE
		flen = $1
		[opsize]
		max = $2
		[weights]
		close_open = 1
		fsync = 0.3
		fdatasync = 0.3
		sendfile = 1
		copy_file_range = 1
		read = 10
		write = 10
		truncate = 5
		mapread = $3
		mapwrite = $3
	DONE
}
for weight in 0 10; do
	settings 65536 8192 $weight > small.toml
	"$JUDGES/fsx" -q -N $(($1 * 99 / 200)) -S "$2" -f small.toml small
	settings 2097152 524288 $weight > large.toml
	"$JUDGES/fsx" -q -N $(($1 / 200)) -S "$2" -f large.toml large
	echo "map weight $weight: done after $SECONDS s"
done
echo "$1 operations, half of them with mmap, seed $2: no difference"
