# remote.tcl - what SQLite's test suite has to know of r2vfs. Sourced by its tester.tcl, in every
# interpreter.
#
# Who deletes the local file of a replica gets it back from the remote at the next open: that is what
# r2vfs is for. The suite deletes test.db thousands of times and means the database, and who copies
# a file over another one means a new database. So whatever goes through Tcl's `file` command here
# takes the remote's object and the state file along.

namespace eval r2 {
    # bucket: the folder behind R2VFS_REMOTE
    variable bucket [string range $::env(R2VFS_REMOTE) [string length file://] end]
    variable root $::env(R2VFS_ROOT)/
    variable real [namespace ensemble configure ::file -map]

    proc real {command args} {
        variable real
        uplevel 1 [dict get $real $command] $args
    }

    # The object of the database at $path; "": it has none.
    proc key_of {path} {
        variable bucket
        variable root
        set n [string length $root]
        if {![string equal -length $n $root $path]} { return "" }
        return $bucket/[string range $path $n end]
    }

    # The script writes into this file, or log, behind everybody's back: nothing is claimed of it.
    variable edited
    proc edited {file} {
        variable edited
        set path [file normalize $file]
        regsub {(-wal|-journal|-shm)$} $path "" path
        if {[info exists edited($path)] || [catch {
            set out [open $::env(R2VFS_SUITE_KEPT)/edited a]
        }]} return
        puts $out $path
        close $out
        set edited($path) 1
    }

    # The remote forgets the database at $path, and so does this machine.
    proc forget {path} {
        set path [file normalize $path]
        set key [key_of $path]
        if {$key eq ""} return
        set side [file dirname $key]/.r2vfs/[file tail $key]
        real delete -force -- $key $key-log $key-forks $side.meta $path-r2
    }

    # Before a database is deleted or replaced: file, state, object and log are put aside, for
    # check.py to compare them. The first ones of a script, small ones, and not in the middle of
    # something: what has a log of SQLite's is no file that is done with. `cp -p` keeps the times.
    variable kept 0
    proc keep {path} {
        variable kept
        variable edited
        set path [file normalize $path]
        if {[info exists edited($path)]} { unset edited($path); return }
        set key [key_of $path]
        if {$kept >= $::env(R2VFS_SUITE_KEEP) || $key eq "" || ![file isfile $key]
            || ![file isfile $path] || [file size $path] > 2000000} return
        foreach suffix {-journal -wal} {
            if {[file exists $path$suffix] && [file size $path$suffix]} return
        }
        incr kept
        set to $::env(R2VFS_SUITE_KEPT)/[pid]-[clock microseconds]
        set side [file dirname $key]/.r2vfs/[file tail $key]
        if {[catch {
            file mkdir $to/bucket/.r2vfs
            exec cp -p $key $to/bucket/file
            exec cp -p $side.meta $to/bucket/.r2vfs/file.meta
            if {[file exists $key-log]} { exec cp -pr $key-log $to/bucket/file-log }
            exec cp -p $path-r2 $to/file-r2
            exec cp -p $path $to/file
            # a checkpoint in the background may have replaced the object between the two
            exec cmp -s $key $to/bucket/file
            exec cmp -s $side.meta $to/bucket/.r2vfs/file.meta
        }]} { real delete -force -- $to }
    }

    # The arguments after the options.
    proc operands {words} {
        for {set n 0} {[string match -* [lindex $words $n]]} {incr n} {
            if {[lindex $words $n] eq "--"} { incr n; break }
        }
        lrange $words $n end
    }

    proc deleted {args} {
        foreach path [operands $args] { keep $path }
        set result [real delete {*}$args]
        foreach path [operands $args] { forget $path }
        return $result
    }

    # A copied state file would be a lie: it stays where it is.
    proc onto {how words} {
        set paths [operands $words]
        set to [lindex $paths end]
        if {[string match *-r2 [lindex $paths 0]]} return
        foreach from [lrange $paths 0 end-1] {
            set onto [expr {[file isdirectory $to] ? [file join $to [file tail $from]] : $to}]
            keep $onto
            forget $onto
        }
        set result [real $how {*}$words]
        if {$how eq "rename"} {
            foreach from [lrange $paths 0 end-1] { forget $from }
        }
        return $result
    }
    proc copied {args} { onto copy $args }
    proc moved {args} { onto rename $args }

    namespace ensemble configure ::file -map [dict merge $real \
        {delete ::r2::deleted copy ::r2::copied rename ::r2::moved}]

    # After a script the suite wants all files closed. In the log layout a checkpoint may still be under
    # way in the background, and read the database: it is waited for.
    proc settled {args} {
        for {set n 0} {$n < 6000 && $::sqlite_open_file_count > 0} {incr n} { after 10 }
    }

    # r2vfs replays a hot journal when the database is opened, not at the first read. A script that
    # wants to damage it in between, outside of a test, would end here.
    rename ::hexio_write ::r2::hexio_write
    proc ::hexio_write {file args} {
        if {[string match *-journal $file] && ![file exists $file]} { return 0 }
        ::r2::edited $file
        ::r2::hexio_write $file {*}$args
    }
}
