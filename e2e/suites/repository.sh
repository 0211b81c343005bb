# Make a git repository in $2 from the directory $1, with a commit for each of its directories.
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
export GIT_AUTHOR_NAME=test GIT_AUTHOR_EMAIL=test@localhost GIT_COMMITTER_NAME=test GIT_COMMITTER_EMAIL=test@localhost
git init -q -b main "$2"
cp -r "$1"/. "$2"
cd "$2"
for directory in */; do
	git add -f "$directory"
	git commit -q -m "${directory%/}"
done
git add -f .
git commit -q -m "the rest"
git gc -q
