# Unpack the archive $1 and compare it with the tree $2 that it was made of.
tar xf "$1"
tree=$(basename "$2")
diff -r "$tree" "$2"
files=$(find "$tree" -type f | wc -l)
test "$files" -gt 5000
echo "$files files, no difference"
