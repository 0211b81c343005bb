# Make $1 random reads, writes, truncations and renewals of one file, and check each against a model in memory; one in a
# hundred is large, of up to half a megabyte. $2 is the seed. The other arguments are weights of mapped reads and writes, each
# for an equal share of the operations: 0 means read(2) and write(2) only.
operations=$1 seed=$2
shift 2
part=$((operations / $#))
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
for weight; do
	settings 65536 8192 $weight > small.toml
	"$SUITES/fsx" -q -N $((part * 99 / 100)) -S "$seed" -f small.toml small
	settings 2097152 524288 $weight > large.toml
	"$SUITES/fsx" -q -N $((part / 100)) -S "$seed" -f large.toml large
	echo "map weight $weight: done after $SECONDS s"
done
echo "$operations operations, weights of mmap $*, seed $seed: no difference"
