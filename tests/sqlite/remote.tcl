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

    # The remote forgets the database at $path, and so does this machine.
    proc forget {path} {
        variable bucket
        variable root
        set path [file normalize $path]
        set n [string length $root]
        if {![string equal -length $n $root $path]} return
        set key $bucket/[string range $path $n end]
        set side [file dirname $key]/.r2vfs/[file tail $key]
        real delete -force -- $key $key-log $key-forks $side.meta $path-r2
    }

    # The arguments after the options.
    proc operands {words} {
        for {set n 0} {[string match -* [lindex $words $n]]} {incr n} {
            if {[lindex $words $n] eq "--"} { incr n; break }
        }
        lrange $words $n end
    }

    proc deleted {args} {
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
            forget [expr {[file isdirectory $to] ? [file join $to [file tail $from]] : $to}]
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

    # r2vfs replays a hot journal when the database is opened, not at the first read. A script that
    # wants to damage it in between, outside of a test, would end here.
    rename ::hexio_write ::r2::hexio_write
    proc ::hexio_write {file args} {
        if {[string match *-journal $file] && ![file exists $file]} { return 0 }
        ::r2::hexio_write $file {*}$args
    }
}
