# The story in Tcl with SQLite's own package. A conflict is [db errorcode] 5, or 517: look at its low
# eight bits. `db eval` finishes its statement before it returns; inside the body of a
# `db eval {SELECT ...} {...}` loop it is unfinished, and sync() refuses.
#
# Without -translatefilename 0 Tcl takes the file: URI for a path, and turns // into /. A process that
# ends without `db close` pushes nothing; the next open does.
package require sqlite3

fconfigure stdout -buffering line -encoding utf-8
encoding system utf-8
set extension $env(R2VFS_SO)
if {$env(STORY_WAY) eq "uri"} {
    set uri $env(STORY_URI)
    # r2vfs: begin uri
    sqlite3 loader :memory:
    loader enable_load_extension 1
    loader eval {SELECT load_extension($extension)}
    sqlite3 db $uri -uri 1 -translatefilename 0
    # r2vfs: end
} else {
    # r2vfs: begin default
    sqlite3 loader :memory:
    loader enable_load_extension 1
    loader eval {SELECT load_extension($extension, 'sqlite3_r2vfsdefault_init')}
    # r2vfs: end
    sqlite3 db $env(STORY_PATH)
}

proc insert {} {
    set who $::env(STORY_WHO)
    db transaction {
        db eval {INSERT INTO story(who) VALUES($who)}
    }
}

proc rows {} {
    db eval {SELECT id, who FROM story ORDER BY id} {
        puts "row $id $who"
    }
}

switch [lindex $argv 0] {
    write {
        db eval {CREATE TABLE IF NOT EXISTS story(id INTEGER PRIMARY KEY, who TEXT)}
        insert
        puts "version [db onecolumn {SELECT sync()}]"
        puts "status [db eval {SELECT version, remote_version, dirty_pages, pushes FROM r2_status}]"
    }
    read {
        rows
        puts "sqlite [db onecolumn {SELECT sqlite_version()}]"
        puts "client Tcl [info patchlevel], sqlite3 [package present sqlite3]"
    }
    conflict {
        insert
        puts "ready"
        gets stdin
        if {[catch {db onecolumn {SELECT sync()}} message]} {
            set code [db errorcode]
            puts "[expr {($code & 0xff) == 5 ? {busy} : {other}}] $code $message"
        } else {
            puts "other $message"
        }
        puts "version [db onecolumn {SELECT r2_resolve('fork')}]"
        rows
    }
    mind {
        insert
        db eval {SELECT who FROM story} {
            catch {db onecolumn {SELECT sync()}} message
            puts "refused $message"
            break
        }
        puts "version [db onecolumn {SELECT sync()}]"
    }
}
db close
puts "closed"
