# Clone the repository $1, check it, change it, pack it.
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
export GIT_AUTHOR_NAME=test GIT_AUTHOR_EMAIL=test@localhost GIT_COMMITTER_NAME=test GIT_COMMITTER_EMAIL=test@localhost
git clone -q "$1" clone
cd clone
git fsck --full 2>&1
test -z "$(git status --porcelain)"
files=$(git ls-files | wc -l)
commits=$(git rev-list --count HEAD)
test "$files" -gt 2000
echo line >> "$(git ls-files | head -1)"
git mv "$(git ls-files | tail -1)" moved
test "$(git status --porcelain | wc -l)" = 2
git commit -qam "a change"
git gc -q
git fsck --full 2>&1
test -z "$(git status --porcelain)"
test "$(git rev-list --count HEAD)" = $((commits + 1))
test "$(git ls-files | wc -l)" = "$files"
echo "cloned $files files in $commits commits: fsck, status, commit, gc, fsck"
