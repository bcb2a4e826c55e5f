#!/bin/sh
# The story in the sqlite3 shell. Its errors are text on stderr, the result code in brackets behind
# the sentence: "Runtime error near line 3: conflict: ... (5)". With -batch and without -bail it goes
# on after one; with -bail it ends with status 1.
set -eu

load_and_open() {
    if [ "$STORY_WAY" = uri ]; then
        cat <<SQL
-- r2vfs: begin uri
.load "$R2VFS_SO"
.open "$STORY_URI"
-- r2vfs: end
SQL
    else
        cat <<SQL
-- r2vfs: begin default
.load "$R2VFS_SO" sqlite3_r2vfsdefault_init
-- r2vfs: end
.open "$STORY_PATH"
SQL
    fi
}

insert="BEGIN; INSERT INTO story(who) VALUES(:who); COMMIT;"
sync="SELECT 'version ' || sync();"
rows="SELECT 'row ' || id || ' ' || who FROM story ORDER BY id;"
who=$(printf %s "$STORY_WHO" | sed "s/'/''/g")

write() {
    sqlite3 -batch -bail :memory: <<SQL
$(load_and_open)
.parameter set :who "'$who'"
CREATE TABLE IF NOT EXISTS story(id INTEGER PRIMARY KEY, who TEXT);
$insert
$sync
SELECT 'status ' || concat FROM (SELECT version || ' ' || remote_version || ' ' || dirty_pages
    || ' ' || pushes AS concat FROM r2_status);
SQL
}

read_back() {
    sqlite3 -batch -bail :memory: <<SQL
$(load_and_open)
$rows
SELECT 'sqlite ' || sqlite_version();
SQL
    echo "client sqlite3 $(sqlite3 --version | cut -d' ' -f1)"
}

# The shell's errors become lines; what r2vfs says on stderr stays there.
sort_out() {
    while IFS= read -r line; do
        case $line in
        "Runtime error"*" (5)" | "Runtime error"*" (517)")
            line=${line#*: }
            code=${line##* \(}
            echo "busy ${code%)} ${line% \(*}" ;;
        "Runtime error"* | "Error"*) echo "other $line" ;;
        "r2vfs: "*) echo "$line" >&2 ;;
        *) echo "$line" ;;
        esac
    done
}

conflict() {
    exec 3<&0
    sqlite3 -batch :memory: <<SQL 2>&1 | sort_out
$(load_and_open)
.parameter set :who "'$who'"
$insert
.system echo ready; read -r line <&3
SELECT sync();
SELECT 'version ' || r2_resolve('fork');
$rows
SQL
}

# The shell goes on after COMMIT failed or was forgotten, inside the transaction.
mind() {
    {
        load_and_open
        echo ".parameter set :who \"'$who'\""
        echo "BEGIN; INSERT INTO story(who) VALUES(:who);"
        echo "$sync"
        echo "COMMIT;"
        echo "$sync"
    } | sqlite3 -batch :memory: 2>&1 | sed 's/^Runtime error[^:]*:/refused/'
}

case $1 in
write) write ;;
read) read_back ;;
conflict) conflict ;;
mind) mind ;;
esac
echo closed
