# Unpack the archive $1 and compare the result with the tree $2, from which the archive was made.
tar xf "$1"
tree=$(basename "$2")
diff -r "$tree" "$2"
files=$(find "$tree" -type f | wc -l)
test "$files" -gt 5000
echo "$files files, no difference"
